"""Parakeet's encoder: a FastConformer on mel spectrograms, from a checkpoint or from scratch."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, MultipleOf
from transformers import ParakeetEncoderConfig

from kikimimi import LayerCount, OddInt, Padded, PositiveInt, Probability, Rule, WeightsError, WeightsFiles
from kikimimi_encoders import pretrained
from kikimimi_encoders.log_mel import FFT, HOP, PREEMPHASIS, WINDOW, normalised_log_mel, num_whole_hops
from kikimimi_encoders.parakeet.model import FastConformer
from kikimimi_encoders.pretrained import (
    SAMPLE_RATE,
    PretrainedConfig,
    PretrainedEncoder,
    build_config,
    check_expected,
    read_config,
    read_front_end,
)
from kikimimi_encoders.spec_augment import SpecAugment, SpectrogramMasking

_MODEL_TYPES = ("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt")
"""Models with a head; their config holds that of the encoder."""


@dataclass(kw_only=True, frozen=True)
class Sizes(pretrained.Sizes):
    """Sizes of an encoder with random weights; the defaults are those of Parakeet CTC 1.1B."""

    dim: Annotated[int, Ge(2), MultipleOf(2)] = 1024
    """Width E of the frames; even."""
    num_layers: LayerCount = 42
    """Conformer blocks."""
    num_heads: PositiveInt = 8
    """Attention heads; they divide `dim`."""
    ffn_dim: PositiveInt = 4096
    """Inner width of both feed-forward networks of a block."""
    kernel_size: OddInt = 9
    """Width of the depthwise convolutions [frames]."""
    num_mels: PositiveInt = 80
    """Mel bands of the spectrogram; a multiple of `subsampling`."""
    subsampling: Annotated[int, Ge(2), Rule("a power of 2", lambda n: n & (n - 1) == 0)] = 8
    """Mel frames of 10 ms that become one frame."""
    subsampling_channels: PositiveInt = 256
    """Channels of the convolutions that subsample."""
    dropout: Probability = 0.1
    """Dropout while training: of what enters the blocks, in attention and in the feed-forward networks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_mels % self.subsampling:
            raise ValueError(
                f"sizes.num_mels ({self.num_mels}) must be a multiple of sizes.subsampling "
                f"({self.subsampling})"
            )


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
        last = self.choose_layers(num_layers=hf_config.num_hidden_layers, dim=hf_config.hidden_size)
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
        front_end = read_front_end(files)
        if front_end is not None:
            expected = {
                "sampling_rate": SAMPLE_RATE,
                "hop_length": HOP,
                "n_fft": FFT,
                "win_length": WINDOW,
                "preemphasis": PREEMPHASIS,
                "feature_size": config.get("num_mel_bins", 80),
            }
            check_expected(front_end[0], expected, front_end[1], self.name)
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
