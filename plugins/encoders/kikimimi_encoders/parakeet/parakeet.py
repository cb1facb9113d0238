"""Parakeet's encoder: a Conformer on mel spectrograms, from a checkpoint or from scratch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import ParakeetEncoderConfig

from kikimimi import (
    Combine,
    ComponentConfig,
    Padded,
    WeightsError,
    WeightsFiles,
    check_taps,
    find_weights,
    tiny_layers,
)
from kikimimi.weights import CONFIG_PATTERNS, load_state
from kikimimi_encoders.checkpoint_config import build_config, read_config
from kikimimi_encoders.parakeet.log_mel import (
    FFT,
    HOP,
    PREEMPHASIS,
    SAMPLE_RATE,
    WINDOW,
    normalised_log_mel,
    num_mel_frames,
)
from kikimimi_encoders.parakeet.model import FastConformer
from kikimimi_encoders.sizes import check_divisors, check_positive, check_read
from kikimimi_encoders.spec_augment import SpecAugment, SpectrogramMasking
from kikimimi_encoders.tapped_encoder import TappedEncoder

TINY_LAYERS = 2
MODEL_TYPES = ("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt")
"""Models with a head; their config holds that of the encoder."""


@dataclass(kw_only=True, frozen=True)
class Sizes:
    """Sizes of an encoder with random weights; the defaults are those of Parakeet CTC 1.1B."""

    dim: int = 1024
    """Width E of the frames; even."""
    num_layers: int = 42
    """Conformer blocks."""
    num_heads: int = 8
    """Attention heads; they divide `dim`."""
    ffn_dim: int = 4096
    """Inner width of both feed-forward networks of a block."""
    kernel_size: int = 9
    """Width of the depthwise convolutions [frames]; odd."""
    num_mels: int = 80
    """Mel bands of the spectrogram; a multiple of `subsampling`."""
    subsampling: int = 8
    """Mel frames of 10 ms that become one frame: a power of 2."""
    subsampling_channels: int = 256
    """Channels of the convolutions that subsample."""
    dropout: float = 0.1
    """Dropout while training: of what enters the blocks, in attention and in the feed-forward networks."""

    def __post_init__(self) -> None:
        check_positive(self, "dim", "num_layers", "num_heads", "ffn_dim", "num_mels", "subsampling_channels")
        check_divisors(self, "num_heads")
        if self.dim % 2:
            raise ValueError(f"sizes.dim must be even (sines and cosines), not {self.dim}")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"sizes.kernel_size must be odd and at least 1, not {self.kernel_size}")
        if self.subsampling < 2 or self.subsampling & (self.subsampling - 1):
            raise ValueError(f"sizes.subsampling must be 2, 4, 8, ..., not {self.subsampling}")
        if self.num_mels % self.subsampling:
            raise ValueError(
                f"sizes.num_mels ({self.num_mels}) must be a multiple of sizes.subsampling "
                f"({self.subsampling})"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"sizes.dropout must be at least 0 and below 1, not {self.dropout}")


class ParakeetEncoder(TappedEncoder):
    """The FastConformer of Parakeet (Rekesh et al. 2023, arXiv 2305.05084), equal to transformers' module.

    With `weights: random` and `sizes` it is a plain Conformer (Gulati et al. 2020) to train from scratch.
    Blocks attend with relative positions, over whole clips of any length. A clip has a mel frame for each
    whole hop of 10 ms; one below 20 ms is taken with silence after it. While it trains, batch norm takes its
    statistics from the real frames of the batch, never from padding (transformers counts padding); dropout is
    that of the checkpoint's config, LayerDrop is off. A batch of one single frame uses running statistics.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `parakeet` encoder."""

        weights: str = "nvidia/parakeet-ctc-1.1b"
        """A Parakeet of transformers, with or without its head: a Hub id, a folder, `package:...`; or
        `random`."""
        layers: list[int] | None = None
        """Layers to read, from 0 (what enters the first block) up; None is the last. Those above are not
        built."""
        combine: Combine = "concat"
        """What becomes of several layers: side by side, or a learned weighted sum."""
        spec_augment: SpecAugment | None = None
        """Masks over the spectrogram while training; None means none."""
        sizes: Sizes | None = None
        """Sizes with `weights: random` (None: those of Parakeet CTC 1.1B); refused with any other weights."""

        def __post_init__(self) -> None:
            check_taps(self.layers, self.combine)
            check_read(self.weights, self.sizes)

    config: Config
    sample_rate = SAMPLE_RATE
    max_seconds = None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        # The weights themselves are fetched by `load_weights`.
        files = find_weights(config.weights, patterns=CONFIG_PATTERNS)
        hf_config = _random_config(config.sizes or Sizes()) if files is None else _read_config(files)
        self.num_mels = int(hf_config.num_mel_bins)
        self.kernel_size = int(hf_config.subsampling_conv_kernel_size)
        self.stride = int(hf_config.subsampling_conv_stride)
        self.num_strides = int(hf_config.subsampling_factor).bit_length() - 1
        self.frame_rate = SAMPLE_RATE / HOP / self.stride**self.num_strides
        self.tap(config, num_layers=hf_config.num_hidden_layers, dim=hf_config.hidden_size)
        self.model = FastConformer(hf_config, last=self.taps.layers[-1])
        if config.spec_augment is not None:
            self.augmentation = SpectrogramMasking(config.spec_augment, self.num_mels)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return a config of 2 blocks x 32 with random weights and else the options of `config`."""
        given = cls.Config() if config is None else config
        sizes = replace(
            given.sizes or Sizes(),
            dim=32,
            num_layers=TINY_LAYERS,
            num_heads=2,
            ffn_dim=64,
            subsampling_channels=8,
        )
        tiny: ParakeetEncoder.Config = replace(
            given, weights="random", sizes=sizes, layers=tiny_layers(given.layers, TINY_LAYERS)
        )
        return tiny

    def load_weights(self) -> None:
        """Fill from safetensors of a model with a head (of the encoder's tensors only) or of the encoder.

        Raises:
            WeightsError: The tensors do not fit.
        """
        files = find_weights(self.config.weights)
        if files is None:
            return
        state = files.state_dict("encoder.") or files.state_dict()
        # The first counts batches, and nothing reads it.
        ignore = ["*.num_batches_tracked", *self.unread_layers()]
        load_state(self.model, state, source=files.source, ignore=ignore)

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the class of the blocks; with `layers: [0]`, where there are none, of the subsampling."""
        return {type(module) for module in self.model.layers} or {type(self.model.subsampling)}

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of a clip: its whole hops of 10 ms, at least 2, subsampled and rounded up."""
        length = num_mel_frames(num_samples)
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


def _random_config(sizes: Sizes) -> Any:
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


def _read_config(files: WeightsFiles) -> Any:
    config: Any = read_config(files, "parakeet", *MODEL_TYPES, "parakeet_encoder")
    if config["model_type"] in MODEL_TYPES:
        config = config.get("encoder_config")
        if not isinstance(config, dict):
            raise WeightsError(f"{files.source}: config.json has no encoder_config")
    _check_front_end(files, config)
    return build_config(ParakeetEncoderConfig, config, files.source)


def _check_front_end(files: WeightsFiles, config: dict[str, Any]) -> None:
    name = "preprocessor_config.json"
    if name not in files.files:
        return
    expected = {
        "sampling_rate": SAMPLE_RATE,
        "hop_length": HOP,
        "n_fft": FFT,
        "win_length": WINDOW,
        "preemphasis": PREEMPHASIS,
        "feature_size": config.get("num_mel_bins", 80),
    }
    for option, given in files.read_json(name).items():
        if given != expected.get(option, given):
            raise WeightsError(
                f"{files.source}: {name}: {option} is {given}, where the front end of 'parakeet' has "
                f"{expected[option]}"
            )
