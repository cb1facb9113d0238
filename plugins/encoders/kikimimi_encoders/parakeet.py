"""Parakeet's encoder: a FastConformer on mel spectrograms, from a checkpoint or from scratch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn
from transformers import ParakeetEncoderConfig
from transformers.models.parakeet.modeling_parakeet import (
    ParakeetEncoderBlock,
    ParakeetEncoderConvolutionModule,
    ParakeetEncoderSubsamplingConv2D,
)

from kikimimi import Padded, PositiveInt, Probability, WeightsError, WeightsFiles
from kikimimi_encoders import pretrained
from kikimimi_encoders.log_mel import FFT, HOP, PREEMPHASIS, WINDOW, normalised_log_mel, num_whole_hops
from kikimimi_encoders.pretrained import (
    SAMPLE_RATE,
    PretrainedConfig,
    PretrainedEncoder,
    build_config,
    check_expected,
    read_config,
)
from kikimimi_encoders.spec_augment import SpecAugment, SpectrogramMasking

_FRONT_END = "preprocessor_config.json"
_MODEL_TYPES = ("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt")
"""Models with a head; their config holds that of the encoder."""


@dataclass(kw_only=True, frozen=True)
class Sizes(pretrained.Sizes):
    """Sizes of an encoder with random weights; the defaults are those of Parakeet CTC 1.1B."""

    dim: Annotated[int, Ge(2), MultipleOf(2)] = 1024
    """Width E of the frames; even."""
    num_layers: PositiveInt = 42
    """Conformer blocks."""
    num_heads: PositiveInt = 8
    """Attention heads; they divide `dim`."""
    ffn_dim: PositiveInt = 4096
    """Inner width of both feed-forward networks of a block."""
    kernel_size: PositiveInt = 9
    """Width of the depthwise convolutions [frames]; odd."""
    num_mels: PositiveInt = 80
    """Mel bands of the spectrogram; a multiple of `subsampling`."""
    subsampling: Annotated[int, Ge(2)] = 8
    """Mel frames of 10 ms that become one frame: a power of 2."""
    subsampling_channels: PositiveInt = 256
    """Channels of the convolutions that subsample."""
    dropout: Probability = 0.1
    """Dropout while training: of what enters the blocks, in attention and in the feed-forward networks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel_size % 2 == 0:
            raise ValueError(f"sizes.kernel_size must be odd, not {self.kernel_size}")
        if self.subsampling & (self.subsampling - 1):
            raise ValueError(f"sizes.subsampling must be 2, 4, 8, ..., not {self.subsampling}")
        if self.num_mels % self.subsampling:
            raise ValueError(
                f"sizes.num_mels ({self.num_mels}) must be a multiple of sizes.subsampling "
                f"({self.subsampling})"
            )


class ConvolutionModule(ParakeetEncoderConvolutionModule):  # type: ignore[misc]
    """transformers' convolution module, whose batch norm counts real frames only while it trains."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Convolve (B, F, E); a frame is real where the (B, 1, F, F) mask lets it attend to itself."""
        # (B, F, E) -> (B, E, F)
        hidden = F.glu(self.pointwise_conv1(hidden_states.transpose(1, 2)), dim=1)
        real = None if attention_mask is None else attention_mask[:, 0].diagonal(dim1=-2, dim2=-1)
        if real is not None:
            hidden = hidden.masked_fill(~real[:, None], 0.0)
        # (B, E, F) -> (B, F, E)
        hidden = self._norm(self.depthwise_conv(hidden).transpose(1, 2), real)
        out: Tensor = self.pointwise_conv2(self.activation(hidden).transpose(1, 2))
        return out.transpose(1, 2)

    def _norm(self, hidden: Tensor, real: Tensor | None) -> Tensor:
        frames = hidden.flatten(0, 1) if real is None or not self.training else hidden[real]
        norm: nn.BatchNorm1d = self.norm
        if self.training and len(frames) == 1:
            # A single frame has no variance; the running statistics are all there is.
            normed = F.batch_norm(
                frames, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        else:
            normed = norm(frames)
        if real is None or not self.training:
            return normed.view_as(hidden)
        return torch.zeros_like(hidden, dtype=normed.dtype).masked_scatter(real[..., None], normed)


class FastConformer(nn.Module):
    """Convolutional subsampling, then Conformer blocks, up to the highest layer that is read.

    Names of parameters are those of transformers' `ParakeetEncoder`.

    Args:
        config: transformers' config of the encoder.
        last: Highest layer that is read; those above are not built.
    """

    def __init__(self, config: Any, last: int) -> None:
        super().__init__()
        config._attn_implementation = "sdpa"
        self.scale = math.sqrt(config.hidden_size) if config.scale_input else 1.0
        self.dropout = nn.Dropout(config.dropout)
        self.position_dropout = nn.Dropout(config.dropout_positions)
        self.subsampling = ParakeetEncoderSubsamplingConv2D(config)
        self.layers = nn.ModuleList()
        for number in range(last):
            block = ParakeetEncoderBlock(config, number)
            block.conv = ConvolutionModule(config)
            self.layers.append(block)

    def forward(self, mel: Padded, lengths: Sequence[int], layers: Sequence[int]) -> list[Tensor]:
        """Encode.

        Args:
            mel: (B, mels, mel frames) spectrograms with lengths in mel frames, zero past them.
            lengths: Frames of each clip after subsampling.
            layers: Layers whose outputs are wanted, ascending; 0 is what enters the first block.

        Returns:
            The output (B, F, E) of each of `layers`.
        """
        mel_mask = attention = None
        if len(set(mel.lengths.tolist())) > 1:
            steps = torch.arange(mel.values.shape[-1], device=mel.values.device)
            mel_mask = steps < mel.lengths.to(steps.device)[:, None]
        # (B, mels, mel frames) -> (B, F, E)
        hidden = self.subsampling(mel.values.transpose(1, 2), mel_mask) * self.scale
        if len(set(lengths)) > 1:
            counts = torch.tensor(lengths, device=hidden.device)
            real = torch.arange(hidden.shape[1], device=hidden.device) < counts[:, None]
            # (B, F) -> (B, 1, queries, keys)
            attention = (real[:, None] & real[:, :, None])[:, None]
        positions = self.position_dropout(_positions(hidden)).expand(len(hidden), -1, -1)
        hidden = self.dropout(hidden)
        outputs = [hidden] if layers[0] == 0 else []
        for number, layer in enumerate(self.layers, start=1):
            hidden = layer(hidden, attention_mask=attention, position_embeddings=positions)
            if number in layers:
                outputs.append(hidden)
        return outputs


def _positions(hidden: Tensor) -> Tensor:
    """Return (1, 2F-1, E) sines and cosines, interleaved, of distances from F-1 down to 1-F.

    Relative positions of Transformer-XL (Dai et al. 2019, section 3.3), in float32 whatever the weights are.
    """
    frames, dim = hidden.shape[1:]
    distances = torch.arange(frames - 1, -frames, -1, device=hidden.device).float()
    steps = torch.arange(0, dim, 2, device=hidden.device).float() / dim
    angles = distances[:, None] * 10000.0**-steps
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None].to(hidden.dtype)


class ParakeetEncoder(PretrainedEncoder):
    """The FastConformer of Parakeet (Rekesh et al. 2023, arXiv 2305.05084), equal to transformers' module.

    With `weights: random` and `sizes` it is a plain Conformer (Gulati et al. 2020) to train from scratch.
    Blocks attend with relative positions, over whole clips of any length. A clip has a mel frame for each
    whole hop of 10 ms; one below 20 ms is taken with silence after it. While it trains, batch norm takes its
    statistics from the real frames of the batch, never from padding (transformers counts padding); dropout is
    that of the checkpoint's config, LayerDrop is off. A batch of one single frame uses running statistics.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(PretrainedConfig):
        """Options of the `parakeet` encoder."""

        weights: str = "nvidia/parakeet-ctc-1.1b"
        """A Parakeet of transformers, with or without its head: a Hub id, a folder, `package:...`; or
        `random`."""
        spec_augment: SpecAugment | None = None
        """Masks over the spectrogram while training; None means none."""
        sizes: Sizes | None = None
        """Sizes with `weights: random` (None: those of Parakeet CTC 1.1B); refused with any other weights."""

    config: Config
    model: FastConformer
    name = "parakeet"
    sizes_class = Sizes
    tiny_sizes: ClassVar = {**PretrainedEncoder.tiny_sizes, "subsampling_channels": 8}
    # Of a model with a head, or of the encoder alone.
    prefixes = ("encoder.", "")
    stem = "subsampling"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        hf_config = self.sizes
        self.num_mels = int(hf_config.num_mel_bins)
        self.kernel_size = int(hf_config.subsampling_conv_kernel_size)
        self.stride = int(hf_config.subsampling_conv_stride)
        self.num_strides = int(hf_config.subsampling_factor).bit_length() - 1
        self.frame_rate = SAMPLE_RATE / HOP / self.stride**self.num_strides
        last = self.tap(num_layers=hf_config.num_hidden_layers, dim=hf_config.hidden_size)
        self.model = FastConformer(hf_config, last)
        if config.spec_augment is not None:
            self.augmentation = SpectrogramMasking(config.spec_augment, self.num_mels)

    def new_sizes(self, sizes: Sizes) -> Any:
        """Return transformers' config."""
        return ParakeetEncoderConfig(
            hidden_size=sizes.dim,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            intermediate_size=sizes.ffn_dim,
            conv_kernel_size=sizes.kernel_size,
            num_mel_bins=sizes.num_mels,
            subsampling_factor=sizes.subsampling,
            subsampling_conv_channels=sizes.subsampling_channels,
            dropout=sizes.dropout,
            activation_dropout=sizes.dropout,
            attention_dropout=sizes.dropout,
        )

    def read(self, files: WeightsFiles) -> Any:
        """Read transformers' config.

        Raises:
            WeightsError: It is another model, or has another front end.
        """
        config: Any = read_config(files, self.name, *_MODEL_TYPES, "parakeet_encoder")
        if config["model_type"] in _MODEL_TYPES:
            config = config.get("encoder_config")
            if not isinstance(config, dict):
                raise WeightsError(f"{files.source}: config.json has no encoder_config")
        if _FRONT_END in files.files:
            expected = {
                "sampling_rate": SAMPLE_RATE,
                "hop_length": HOP,
                "n_fft": FFT,
                "win_length": WINDOW,
                "preemphasis": PREEMPHASIS,
                "feature_size": config.get("num_mel_bins", 80),
            }
            where = f"{files.source}: {_FRONT_END}"
            check_expected(files.read_json(_FRONT_END), expected, where, self.name)
        return build_config(ParakeetEncoderConfig, config, files.source)

    def unread(self) -> list[str]:
        """Return patterns of tensors that are not built, or, as the count of batches, that nothing reads."""
        return ["*.num_batches_tracked", *super().unread()]

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of a clip: its whole hops of 10 ms, at least 2, subsampled and rounded up."""
        length = num_whole_hops(num_samples)
        for _ in range(self.num_strides):
            length = (length + (self.kernel_size - 1) // 2 * 2 - self.kernel_size) // self.stride + 1
        return length

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms at 16 kHz to (B, F, E)."""
        mel = normalised_log_mel(audio, self.num_mels)
        if self.augmentation is not None:
            mel = Padded(self.augmentation(mel.values, mel.lengths.tolist()), mel.lengths)
        dtype = self.model.subsampling.linear.weight.dtype
        lengths = [self.num_frames(length) for length in audio.lengths.tolist()]
        outputs = self.model(Padded(mel.values.to(dtype), mel.lengths), lengths, self.taps.layers)
        return Padded(
            self.taps(outputs), torch.tensor(lengths, dtype=torch.int64, device=audio.lengths.device)
        )
