"""The Conformer of Granite-Speech, on whole clips, from a checkpoint or from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks
from transformers import GraniteSpeechEncoderConfig
from transformers.models.granite_speech.modeling_granite_speech import (
    GraniteSpeechConformerAttention,
    GraniteSpeechConformerBlock,
    GraniteSpeechConformerConvModule,
)

from kikimimi import (
    LayerCount,
    Padded,
    PositiveInt,
    Probability,
    WeightsError,
    WeightsFiles,
    full_precision,
)
from kikimimi_encoders import pretrained
from kikimimi_encoders.batch_norm import norm_real_frames
from kikimimi_encoders.log_mel import FFT, HOP, WINDOW
from kikimimi_encoders.pretrained import (
    SAMPLE_RATE,
    PretrainedConfig,
    PretrainedEncoder,
    build_config,
    check_expected,
    read_config,
    read_front_end,
)

_PAIR = 2
"""Mel frames that become one frame, side by side."""
_SHORTEST = FFT // 2 + 1
"""Samples that a clip has at least: its ends are mirrored by half a transform."""


@dataclass(kw_only=True, frozen=True)
class Sizes(pretrained.Sizes):
    """Sizes of an encoder with random weights; the defaults are those of Granite-Speech 3.3."""

    dim: PositiveInt = 1024
    """Width E of the frames."""
    num_layers: LayerCount = 16
    """Conformer blocks."""
    num_heads: PositiveInt = 8
    """Attention heads; they divide `dim`."""
    ffn_dim: PositiveInt = 4096
    """Inner width of both feed-forward networks of a block; a multiple of `dim`."""
    kernel_size: PositiveInt = 15
    """Width of the depthwise convolutions [frames]."""
    conv_expansion: PositiveInt = 2
    """Channels of the depthwise convolutions, as a multiple of `dim`."""
    num_mels: PositiveInt = 80
    """Mel bands of the spectrogram."""
    block_frames: PositiveInt = 200
    """Frames that attend to one another; those of other blocks are not seen."""
    max_distance: PositiveInt = 512
    """Distances with a position of their own, at least `block_frames` [frames]."""
    num_labels: PositiveInt = 256
    """Labels of the CTC head in the middle, whose probabilities the blocks after it are told."""
    dropout: Probability = 0.1
    """Dropout while training, after attention, convolutions and in the feed-forward networks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ffn_dim % self.dim:
            raise ValueError(f"sizes.ffn_dim ({self.ffn_dim}) must be a multiple of sizes.dim ({self.dim})")
        if self.block_frames > self.max_distance:
            raise ValueError(
                f"sizes.block_frames ({self.block_frames}) must be at most sizes.max_distance "
                f"({self.max_distance})"
            )


class BlockAttention(GraniteSpeechConformerAttention):  # type: ignore[misc]
    """Attention inside blocks, with learned relative positions (Shaw et al. 2018, arXiv 1803.02155).

    It is transformers' own, which takes what comes after a clip for frames of it where another is longer.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: Tensor, distances: Tensor, seen: Tensor | None
    ) -> Tensor:
        """Attend.

        Args:
            hidden_states: (B, F, E).
            distances: (K, K) indices into the positions, K being the frames of a block.
            seen: (B x blocks, 1, 1, K) bool, true for real frames; None where all are.
        """
        hidden = self.pre_norm(hidden_states)
        batch, frames, _ = hidden.shape
        size = len(distances)
        missing = -frames % size
        blocks = batch * ((frames + missing) // size)
        query, key, value = (
            # (B, F, heads x width) -> (B x blocks, heads, K, width)
            F.pad(projected, (0, 0, 0, missing)).reshape(blocks, size, self.num_heads, -1).transpose(1, 2)
            for projected in (self.to_q(hidden), *self.to_kv(hidden).chunk(2, dim=-1))
        )
        bias = torch.einsum("bhcd,crd->bhcr", query, self.rel_pos_emb(distances)) * self.scale
        if seen is not None:
            bias = bias.masked_fill(~seen, torch.finfo(bias.dtype).min)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=self.scale)
        # (B x blocks, heads, K, width) -> (B, F, heads x width)
        mixed = mixed.transpose(1, 2).reshape(batch, frames + missing, -1)[:, :frames]
        out: Tensor = self.dropout(self.to_out(mixed))
        return out


class BlockConvolution(GraniteSpeechConformerConvModule):  # type: ignore[misc]
    """transformers' convolution module, which sees zeros after a clip, as after a clip alone.

    While it trains, its batch norm counts real frames only.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden_states: Tensor, real: Tensor | None
    ) -> Tensor:
        """Convolve (B, F, E); `real` is (B, F) bool, None where all frames are."""
        # (B, F, E) -> (B, E, F)
        hidden = self.glu(self.up_conv(self.norm(hidden_states).transpose(1, 2)))
        if real is not None:
            hidden = hidden.masked_fill(~real[:, None], 0.0)
        # (B, E, F) -> (B, F, E)
        hidden = norm_real_frames(self.batch_norm, self.depth_conv(hidden).transpose(1, 2), real)
        out: Tensor = self.dropout(self.down_conv(self.silu(hidden).transpose(1, 2)).transpose(1, 2))
        return out


class ConformerBlock(GraniteSpeechConformerBlock):  # type: ignore[misc]
    """transformers' block, each clip of a batch as if it were alone."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.attn = BlockAttention(config)
        self.conv = BlockConvolution(config)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden: Tensor, distances: Tensor, seen: Tensor | None, real: Tensor | None
    ) -> Tensor:
        """Transform (B, F, E); the others are as in `BlockAttention` and `BlockConvolution`."""
        hidden = 0.5 * self.ff1(hidden) + hidden
        hidden = self.attn(hidden, distances, seen) + hidden
        hidden = self.conv(hidden, real) + hidden
        out: Tensor = self.post_norm(0.5 * self.ff2(hidden) + hidden)
        return out


class GraniteConformer(nn.Module):
    """Conformer blocks, up to the highest layer that is read, told in the middle what CTC would write.

    Names of parameters are those of transformers' `GraniteSpeechCTCEncoder`.

    Args:
        config: transformers' config of the encoder.
        last: Highest layer that is read; those above are not built.

    Attributes:
        middle: The layer after which self-conditioning acts (Nozaki and Komatsu 2021, arXiv 2104.02724).
    """

    def __init__(self, config: Any, last: int) -> None:
        super().__init__()
        self.block_frames = config.context_size
        self.max_distance = config.max_pos_emb
        self.middle = config.num_layers // 2
        self.input_linear = nn.Linear(config.input_dim, config.hidden_dim)
        self.layers = nn.ModuleList(ConformerBlock(config) for _ in range(last))
        if 1 <= self.middle <= last:
            self.out = nn.Linear(config.hidden_dim, config.output_dim)
            self.out_mid = nn.Linear(config.output_dim, config.hidden_dim)

    def forward(self, mel: Padded, layers: Sequence[int]) -> list[Tensor]:
        """Encode.

        Args:
            mel: (B, F, 2 x mels) spectrograms with lengths in frames.
            layers: Layers whose outputs are wanted, ascending; 0 is what enters the first block.

        Returns:
            The output (B, F, E) of each of `layers`; that of the middle with what CTC would write.
        """
        hidden = self.input_linear(mel.values)
        frames = hidden.shape[1]
        # A batch of short clips needs no whole block.
        size = min(self.block_frames, frames)
        steps = torch.arange(size, device=hidden.device)
        distances = steps[:, None] - steps + self.max_distance
        real = mel.mask() if len(set(mel.lengths.tolist())) > 1 else None
        missing, seen = -frames % size, None
        if missing or real is not None:
            every = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
            # (B, F) -> (B x blocks, 1, 1, K)
            seen = F.pad(every if real is None else real, (0, missing)).view(-1, 1, 1, size)
        outputs = [hidden] if layers[0] == 0 else []
        for number, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden, distances, seen, real)
            if number == self.middle:
                hidden = hidden + self.out_mid(self.out(hidden).softmax(-1))
            if number in layers:
                outputs.append(hidden)
        return outputs


class GraniteSpeechEncoder(PretrainedEncoder):
    """The speech encoder of Granite-Speech (Saon et al. 2025, arXiv 2505.08699), trained by IBM with CTC.

    A Conformer at 50 frames a second whose frames attend inside blocks of 4 s, and which in the middle adds
    what its CTC head would write to its frames. Of a clip alone it equals transformers'
    `GraniteSpeechCTCEncoder` on its feature extractor's spectrogram; in a batch the reference lets frames see
    padding, and this does not. While it trains, batch norm takes its statistics from the real frames of the
    batch; dropout is that of the checkpoint's config.

    A clip below 257 samples (16 ms), which the reference refuses, is taken with silence after it. The last of
    an odd number of mel frames is dropped, as there.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(PretrainedConfig):
        """Options of the `granite_speech` encoder."""

        weights: str = "ibm-granite/granite-speech-3.3-2b"
        """A Granite-Speech of transformers, whole or its encoder alone: a Hub id, a folder, `package:...`; or
        `random`."""
        sizes: Sizes | None = None
        """Sizes with `weights: random` (None: those of Granite-Speech 3.3); refused with others."""

    config: Config
    model: GraniteConformer
    name = "granite_speech"
    sizes_class = Sizes
    tiny_sizes: ClassVar = {**PretrainedEncoder.tiny_sizes, "num_labels": 8, "block_frames": 10}
    stem = "input_linear"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.num_mels = int(self.sizes.input_dim) // _PAIR
        self.frame_rate = SAMPLE_RATE / HOP / _PAIR
        last = self.choose_layers(num_layers=self.sizes.num_layers, dim=self.sizes.hidden_dim)
        self.model = GraniteConformer(self.sizes, last)

    def new_sizes(self, sizes: Sizes) -> Any:
        """Return transformers' config."""
        return GraniteSpeechEncoderConfig(
            input_dim=_PAIR * sizes.num_mels,
            num_layers=sizes.num_layers,
            hidden_dim=sizes.dim,
            feedforward_mult=sizes.ffn_dim // sizes.dim,
            num_heads=sizes.num_heads,
            output_dim=sizes.num_labels,
            context_size=sizes.block_frames,
            max_pos_emb=sizes.max_distance,
            dropout=sizes.dropout,
            conv_kernel_size=sizes.kernel_size,
            conv_expansion_factor=sizes.conv_expansion,
        )

    def read(self, files: WeightsFiles) -> Any:
        """Read transformers' config.

        Raises:
            WeightsError: It is another model, or has another front end.
        """
        config = read_config(files, self.name, "granite_speech_encoder")
        built = build_config(GraniteSpeechEncoderConfig, config, files.source)
        where = f"{files.source}: config.json"
        if built.input_dim % _PAIR:
            raise WeightsError(f"{where}: input_dim ({built.input_dim}) is not that of {_PAIR} mel frames")
        if not 1 <= built.context_size <= built.max_pos_emb:
            raise WeightsError(
                f"{where}: context_size ({built.context_size}) must be between 1 and max_pos_emb "
                f"({built.max_pos_emb})"
            )
        front_end = read_front_end(files)
        if front_end is not None:
            settings, where = front_end
            expected = {
                "sample_rate": SAMPLE_RATE,
                "hop_length": HOP,
                "n_fft": FFT,
                "win_length": WINDOW,
                "n_mels": built.input_dim // _PAIR,
            }
            mel = settings.get("melspec_kwargs") or {}
            check_expected(mel, expected, f"{where}: melspec_kwargs", self.name)
        return built

    def unread(self) -> list[str]:
        """Return patterns of tensors that are not built, or, as the count of batches, that nothing reads."""
        head = [] if hasattr(self.model, "out") else ["out.*", "out_mid.*"]
        return ["*.num_batches_tracked", *head, *super().unread()]

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of a clip: half its mel frames, of which one is centred on each 10 ms."""
        return _num_mel_frames(num_samples) // _PAIR

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms at 16 kHz to (B, F, E)."""
        mel = _log_mel(audio, self.num_mels)
        dtype = self.model.input_linear.weight.dtype
        outputs = self.model(Padded(mel.values.to(dtype), mel.lengths), self.taps.layers)
        return Padded(self.taps(outputs), mel.lengths)


def _num_mel_frames(num_samples: int) -> int:
    return max(_SHORTEST, num_samples) // HOP + 1


def _log_mel(audio: Padded, num_mels: int) -> Padded:
    """Compute the spectrogram of transformers' `GraniteSpeechFeatureExtractor`, of each clip by itself.

    Both ends of a clip are mirrored, and it is relative to its own maximum, in float32.

    Returns:
        (B, F, 2 x num_mels): pairs of mel frames, with lengths in pairs.
    """
    # Autocast would run the mel product in half precision.
    with torch.no_grad(), full_precision(audio.values.device):
        lengths = [max(_SHORTEST, length) for length in audio.lengths.tolist()]
        longest, half = max(lengths), FFT // 2
        waves = audio.values[:, :longest].float()
        waves = waves.masked_fill(~audio.mask()[:, :longest], 0.0)
        waves = F.pad(waves, (0, longest + half - waves.shape[1]))
        # Sample `length` + n after a clip is sample `length` - 2 - n of it.
        ends = torch.tensor(lengths, device=waves.device)[:, None]
        steps = torch.arange(half, device=waves.device)
        waves = waves.scatter(1, ends + steps, waves.gather(1, ends - 2 - steps))
        waves = torch.cat([waves[:, 1 : half + 1].flip(1), waves], dim=1)
        spectrum = torch.stft(
            waves, FFT, HOP, WINDOW, window=_hann(waves.device), center=False, return_complex=True
        )
        # (B, bins, mel frames) -> (B, mel frames, mels)
        mel = spectrum.abs().square().transpose(1, 2) @ _filters(num_mels, waves.device)
        mel = mel.clamp(min=1e-10).log10()
        counts = [_num_mel_frames(length) for length in lengths]
        past = (
            torch.arange(mel.shape[1], device=mel.device) >= torch.tensor(counts, device=mel.device)[:, None]
        )
        # The maximum is also over a last frame that is then dropped.
        highest = mel.masked_fill(past[..., None], -torch.inf).amax(dim=(1, 2), keepdim=True)
        mel = torch.maximum(mel, highest - 8.0) / 4.0 + 1.0
        pairs = max(counts) // _PAIR
        # (B, mel frames, mels) -> (B, F, 2 x mels)
        mel = mel[:, : _PAIR * pairs].reshape(len(mel), pairs, _PAIR * num_mels)
        return Padded(mel, torch.tensor([count // _PAIR for count in counts], device=audio.lengths.device))


# Not buffers: those would follow the module to bfloat16, or to the meta device and be lost there.
@lru_cache(maxsize=8)
def _hann(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(WINDOW, device=device)


@lru_cache(maxsize=8)
def _filters(num_mels: int, device: torch.device) -> Tensor:
    """Return (bins, num_mels) triangles of equal height on the mel scale of HTK, up to half the rate."""
    with torch.inference_mode(False):
        filters: Tensor = melscale_fbanks(FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, num_mels, SAMPLE_RATE)
        return filters.to(device)
