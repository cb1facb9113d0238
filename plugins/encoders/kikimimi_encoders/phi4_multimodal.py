"""The Conformer of Phi-4-Multimodal, on whole clips, from a checkpoint or from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn
from transformers import Phi4MultimodalAudioConfig
from transformers.audio_utils import mel_filter_bank
from transformers.models.phi4_multimodal.modeling_phi4_multimodal import (
    Phi4MultimodalAudioConformerEncoderLayer,
    Phi4MultimodalAudioMeanVarianceNormLayer,
    Phi4MultimodalAudioNemoConvSubsampling,
    Phi4MultimodalAudioRelativeAttentionBias,
)

from kikimimi import (
    LayerCount,
    OddInt,
    Padded,
    PositiveInt,
    Probability,
    Rule,
    WeightsFiles,
    full_precision,
)
from kikimimi_encoders import pretrained
from kikimimi_encoders.log_mel import FFT, HOP, PREEMPHASIS, WINDOW
from kikimimi_encoders.pretrained import (
    SAMPLE_RATE,
    PretrainedConfig,
    PretrainedEncoder,
    build_config,
    check_expected,
    read_config,
)

_MEAN, _STD = 15.41663, 6.55582
"""Mean and standard deviation of such spectrograms over AudioSet, as BEATs publishes them."""
_HIGHEST = 7690.0
"""Upper end of the highest mel band [Hz]."""
_PIECE = 500
"""Longest stretch whose frames attend to one another: 40 s."""
_FIXED = {"chunk_size": -1, "downsample_rate": 1, "bias_symmetric": False, "depthwise_multiplier": 1}
"""Settings of the config that cannot be otherwise."""


@dataclass(kw_only=True, frozen=True)
class Sizes(pretrained.Sizes):
    """Sizes of an encoder with random weights; the defaults are those of Phi-4-Multimodal."""

    dim: PositiveInt = 1024
    """Width E of the frames."""
    num_layers: LayerCount = 24
    """Conformer blocks."""
    num_heads: PositiveInt = 16
    """Attention heads; they divide `dim`."""
    ffn_dim: PositiveInt = 1536
    """Inner width of both gated feed-forward networks of a block."""
    kernel_size: OddInt = 3
    """Width of the depthwise convolutions, which see the past [frames]."""
    num_mels: PositiveInt = 80
    """Mel bands of the spectrogram."""
    subsampling: Annotated[int, Ge(2), Rule("a power of 2", lambda n: n & (n - 1) == 0)] = 8
    """Mel frames of 10 ms that become one frame."""
    subsampling_channels: PositiveInt = 1024
    """Channels of the convolutions that subsample."""
    max_distance: PositiveInt = 1000
    """Distance from which on all positions have one bias [frames]."""
    dropout: Probability = 0.0
    """Dropout while training, in attention, convolutions and feed-forward networks."""


class Phi4Conformer(nn.Module):
    """Convolutional subsampling, then Conformer blocks, up to the highest layer that is read.

    Names of parameters are those of transformers' `Phi4MultimodalAudioModel`, whose modules they are.

    Args:
        config: transformers' config of the encoder.
        last: Highest layer that is read; those above are not built.
    """

    def __init__(self, config: Any, last: int) -> None:
        super().__init__()
        config._attn_implementation = "sdpa"
        self.encoder_embedding = Phi4MultimodalAudioMeanVarianceNormLayer(config)
        self.embed = Phi4MultimodalAudioNemoConvSubsampling(config)
        self.relative_attention_bias_layer = Phi4MultimodalAudioRelativeAttentionBias(config)
        self.encoders = nn.ModuleList(Phi4MultimodalAudioConformerEncoderLayer(config) for _ in range(last))

    def forward(self, mel: Padded, layers: Sequence[int]) -> list[Padded]:
        """Encode (B, mel frames, mels) spectrograms.

        Args:
            mel: Spectrograms with lengths in mel frames.
            layers: Layers whose outputs are wanted, ascending; 0 is what enters the first block.

        Returns:
            The output (B, F, E) of each of `layers`.
        """
        frames = self._subsample(Padded(self.encoder_embedding(mel.values), mel.lengths))
        # Pieces of a long clip do not see one another, as in the reference.
        pieces = [piece for clip in frames.unstack() for piece in torch.split(clip, _PIECE)]
        batch = Padded.stack(pieces)
        hidden = batch.values
        past = ~batch.mask()[:, None, None]  # (B, 1, 1, F)
        bias = self.relative_attention_bias_layer(hidden)  # (1, heads, F, F)
        bias = bias.expand(len(hidden), -1, -1, -1).masked_fill(past, torch.finfo(bias.dtype).min)
        outputs = [hidden] if layers[0] == 0 else []
        for number, layer in enumerate(self.encoders, start=1):
            hidden = layer(hidden, bias)
            if number in layers:
                outputs.append(hidden)
        counts = [-(-length // _PIECE) for length in frames.lengths.tolist()]
        return [_joined(Padded(output, batch.lengths), counts) for output in outputs]

    def _subsample(self, mel: Padded) -> Padded:
        """Convolve (B, mel frames, mels) to (B, F, E), each clip as if it were alone."""
        hidden, lengths = mel.values[:, None], mel.lengths
        for module in self.embed.conv:
            if isinstance(module, nn.Conv2d) and module.stride[0] > 1:
                real = (
                    torch.arange(hidden.shape[2], device=hidden.device) < lengths.to(hidden.device)[:, None]
                )
                hidden = hidden.masked_fill(~real[:, None, :, None], 0.0)
                lengths = (lengths - 1) // 2 + 1
            hidden = module(hidden)
        # (B, channels, F, bands) -> (B, F, channels x bands) -> (B, F, E)
        return Padded(self.embed.out(hidden.transpose(1, 2).flatten(2)), lengths)


def _joined(pieces: Padded, counts: list[int]) -> Padded:
    """Put the pieces of each clip together again."""
    each = iter(pieces.unstack())
    return Padded.stack([torch.cat([next(each) for _ in range(count)]) for count in counts])


class Phi4MultimodalEncoder(PretrainedEncoder):
    """The audio encoder of Phi-4-Multimodal (Microsoft 2025, arXiv 2503.01743, section 2.2.1).

    A Conformer with gated feed-forward networks, layer norms, causal convolutions, attention over the clip
    with a learned bias for each distance, and a subsampling by convolutions to 80 ms: 441 M parameters. Of a
    clip alone it equals transformers' `Phi4MultimodalAudioModel` on its feature extractor's spectrogram; in a
    batch, or where a clip is longer than 40 s, the reference lets frames see padding, and this does not.

    The spectrogram has a frame of 25 ms for each 10 ms that lies within the clip; a clip below 25 ms is taken
    with silence after it. With random weights it is normalised by the statistics of AudioSet, with a
    checkpoint by its own.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(PretrainedConfig):
        """Options of the `phi4_multimodal` encoder."""

        weights: str = "random"
        """A Phi-4-Multimodal of transformers (`microsoft/Phi-4-multimodal-instruct` in a revision that is
        converted for it), whole or its encoder alone: a Hub id, a folder, `package:...`; or `random`."""
        sizes: Sizes | None = None
        """Sizes with `weights: random` (None: the published ones); refused with any other weights."""

    config: Config
    model: Phi4Conformer
    name = "phi4_multimodal"
    sizes_class = Sizes
    tiny_sizes: ClassVar = {**PretrainedEncoder.tiny_sizes, "subsampling_channels": 8}
    prefixes = ("encoder.", "")
    stack = "encoders"
    stem = "embed"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.num_mels = int(self.sizes.input_size)
        self.subsampling = int(self.sizes.time_reduction)
        self.frame_rate = SAMPLE_RATE / HOP / self.subsampling
        last = self.choose_layers(num_layers=self.sizes.num_blocks, dim=self.sizes.hidden_size)
        self.model = Phi4Conformer(self.sizes, last)
        if config.weights == "random":
            self.model.encoder_embedding.global_mean.fill_(_MEAN)
            self.model.encoder_embedding.global_invstd.fill_(1 / _STD)

    def new_sizes(self, sizes: Sizes) -> Any:
        """Return transformers' config."""
        return Phi4MultimodalAudioConfig(
            hidden_size=sizes.dim,
            num_blocks=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            intermediate_size=sizes.ffn_dim,
            kernel_size=sizes.kernel_size,
            input_size=sizes.num_mels,
            time_reduction=sizes.subsampling,
            nemo_conv_channels=sizes.subsampling_channels,
            bias_max_distance=sizes.max_distance,
            ext_pw_out_channel=sizes.dim,
            depthwise_separable_out_channel=sizes.dim,
            dropout_rate=sizes.dropout,
        )

    def read(self, files: WeightsFiles) -> Any:
        """Read transformers' config.

        Raises:
            WeightsError: It is another model, or one of a structure that is not built here.
        """
        config = read_config(files, self.name, "phi4_multimodal_audio")
        check_expected(config, _FIXED, f"{files.source}: config.json", self.name)
        return build_config(Phi4MultimodalAudioConfig, config, files.source)

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of a clip: its whole windows of 25 ms, every 10 ms, subsampled and rounded up."""
        return -(-_num_mel_frames(num_samples) // self.subsampling)

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms at 16 kHz to (B, F, E)."""
        mel = _log_mel(audio, self.num_mels)
        outputs = self.model(
            Padded(mel.values.to(self.model.embed.out.weight.dtype), mel.lengths), self.taps.layers
        )
        lengths = outputs[0].lengths.to(audio.lengths.device)
        return Padded(self.taps([output.values for output in outputs]), lengths)


def _num_mel_frames(num_samples: int) -> int:
    return max(0, num_samples - WINDOW) // HOP + 1


def _log_mel(audio: Padded, num_mels: int) -> Padded:
    """Compute the spectrogram of transformers' `Phi4MultimodalFeatureExtractor`, in float32.

    Returns:
        (B, mel frames, num_mels) with lengths in mel frames.
    """
    # Autocast would run the mel product in half precision.
    with torch.no_grad(), full_precision(audio.values.device):
        longest = max(WINDOW, int(audio.lengths.max()))
        waves = audio.values[:, :longest].float()
        waves = waves.masked_fill(~audio.mask()[:, :longest], 0.0)
        waves = nn.functional.pad(waves, (0, longest - waves.shape[1]))
        frames = waves.unfold(-1, WINDOW, HOP)  # (B, mel frames, window)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)  # before the first, the first again
        frames = (frames - PREEMPHASIS * before) * 2**15
        window, filters = _window(frames.device), _filters(num_mels, frames.device)
        power = torch.fft.rfft(frames.double() * window, n=FFT).to(torch.complex64).abs().square()
        mel = (power @ filters).clamp(min=1.0).log()
        lengths = [_num_mel_frames(length) for length in audio.lengths.tolist()]
        return Padded(mel, torch.tensor(lengths, device=audio.lengths.device))


# Not buffers: those would follow the module to bfloat16, or to the meta device and be lost there.
@lru_cache(maxsize=8)
def _window(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.hamming_window(WINDOW, periodic=False, device=device, dtype=torch.float64)


@lru_cache(maxsize=8)
def _filters(num_mels: int, device: torch.device) -> Tensor:
    """Return (bins, num_mels) triangles on Kaldi's mel scale."""
    with torch.inference_mode(False):
        filters = mel_filter_bank(
            num_frequency_bins=FFT // 2 + 1,
            num_mel_filters=num_mels,
            min_frequency=0.0,
            max_frequency=_HIGHEST,
            sampling_rate=SAMPLE_RATE,
            triangularize_in_mel_space=True,
            mel_scale="kaldi",
        )
        return torch.from_numpy(filters).float().to(device)
