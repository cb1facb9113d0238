"""Whisper's encoder, on the clip's own frames or on the padded window of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from kikimimi import (
    Combine,
    ComponentConfig,
    Encoder,
    Padded,
    Taps,
    WeightsError,
    WeightsFiles,
    check_taps,
    find_weights,
    tiny_layers,
)
from kikimimi.weights import CONFIG_PATTERNS, DEFAULT_PATTERNS, load_state
from kikimimi_encoders.log_mel import HOP, SAMPLE_RATE, check_window, log_mel, num_mel_frames
from kikimimi_encoders.spec_augment import SpecAugment, SpectrogramMasking
from kikimimi_encoders.whisper_ctranslate2 import (
    MODEL,
    encoder_sizes,
    encoder_state,
    is_ctranslate2,
    open_whisper,
)
from kikimimi_encoders.whisper_layers import WhisperEncoderLayer, WhisperTransformer


@dataclass(kw_only=True, frozen=True)
class Sizes:
    """Sizes of a Whisper encoder with random weights; the defaults are those of Whisper base."""

    dim: int = 512
    """Width E of the frames; even."""
    num_layers: int = 6
    """Transformer layers."""
    num_heads: int = 8
    """Attention heads; they divide `dim`."""
    ffn_dim: int = 2048
    """Inner width of the feed-forward network."""
    num_mels: int = 80
    """Mel bands of the spectrogram (80; 128 in large-v3)."""
    num_positions: int = 1500
    """Longest clip [frames of 20 ms]."""

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "ffn_dim", "num_mels", "num_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"sizes.{name} must be at least 1, not {getattr(self, name)}")
        if self.dim % self.num_heads:
            raise ValueError(f"sizes.num_heads ({self.num_heads}) must divide sizes.dim ({self.dim})")
        if self.dim % 2 or self.dim < 4:
            raise ValueError(f"sizes.dim must be even and at least 4 (sines and cosines), not {self.dim}")


AnySizes = TypeVar("AnySizes", bound=Sizes)


class WhisperEncoder(Encoder):
    """The encoder of Whisper (Radford et al. 2022, arXiv 2212.04356), without transformers' 30 s padding.

    With `pad: none` it sees the clip's own frames only: positions are cut to its length, clips of a batch are
    laid end to end, and attention stays within each. With `pad: window` it sees what the reference sees, the
    clip in 30 s of silence, and equals transformers' `WhisperEncoder`. Either way the frames of the clip are
    returned, not those of the silence after it.

    Only the layers up to the highest that `layers` names are built, and loaded.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `whisper` encoder."""

        weights: str = "openai/whisper-base"
        """A Whisper of transformers or of CTranslate2 (faster-whisper): a Hub id, a folder, `package:...`; or
        `random`."""
        pad: Literal["none", "window"] = "none"
        """What the encoder sees: the clip alone, or the clip padded with silence to the window (30 s)."""
        sizes: Sizes | None = None
        """Sizes with `weights: random` (None: those of Whisper base); refused with any other weights."""
        layers: list[int] | None = None
        """Layers whose outputs are the frames (None: the last), as transformers' `hidden_states` counts them:
        0 is what enters the first layer, i what leaves the i-th, the last one's after the final norm."""
        combine: Combine = "concat"
        """What becomes of several layers: side by side, or a sum with learned weights."""
        spec_augment: SpecAugment | None = None
        """Masks over the spectrogram while training; None means none."""

        def __post_init__(self) -> None:
            check_taps(self.layers, self.combine)
            if self.pad not in ("none", "window"):
                raise ValueError(f"pad must be none or window, not {self.pad!r}")
            if self.weights != "random" and self.sizes is not None:
                raise ValueError(f"sizes is read only with weights: random, not with {self.weights!r}")

    config: Config
    sample_rate = SAMPLE_RATE
    frame_rate = SAMPLE_RATE / HOP / 2

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        # The weights themselves are fetched by `load_weights`; a CTranslate2 file states its sizes itself.
        files = find_weights(config.weights, patterns=(*CONFIG_PATTERNS, MODEL))
        self.sizes = (config.sizes or Sizes()) if files is None else _read_sizes(files)
        self.max_seconds = self.sizes.num_positions / self.frame_rate
        self.taps = Taps(config.layers, config.combine, self.sizes.num_layers)
        self.num_taps = self.taps.num_taps
        self.dim = self.sizes.dim * self.num_taps
        if config.spec_augment is not None:
            self.augmentation = SpectrogramMasking(config.spec_augment, self.sizes.num_mels)
        self.model = build_transformer(self.sizes, self.taps)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return a config of 2 layers x 32 with random weights that pads, taps and masks as `config` does."""
        given: WhisperEncoder.Config = cls.Config() if config is None else config
        num_layers = 2
        return replace(
            given,
            weights="random",
            sizes=Sizes(
                dim=32,
                num_layers=num_layers,
                num_heads=2,
                ffn_dim=64,
                num_mels=tiny_mels(given.sizes, given.spec_augment),
            ),
            layers=tiny_layers(given.layers, num_layers),
        )

    def load_weights(self) -> None:
        """Fill from safetensors (of the encoder's tensors only) or from a CTranslate2 file.

        Raises:
            WeightsError: The tensors do not fit.
        """
        files = find_weights(self.config.weights, patterns=(*DEFAULT_PATTERNS, MODEL))
        if files is None:
            return
        if is_ctranslate2(files):
            state = encoder_state(open_whisper(files))
        else:
            # WhisperForConditionalGeneration, or WhisperModel.
            state = files.state_dict("model.encoder.") or files.state_dict("encoder.")
        load_state(self.model, state, source=files.source, ignore=unread(self.model, self.sizes))

    def pretrained_names(self) -> set[str]:
        """Return all names but those of the learned shares of layers, where the weights have a source."""
        return {name for name in super().pretrained_names() if not name.startswith("taps.")}

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the encoder layer's class; where no layer is read, that of the convolutions."""
        return {WhisperEncoderLayer if self.model.layers else nn.Conv1d}

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of 20 ms that the clip touches: ceil(ceil(S / 160) / 2), at least 1."""
        return -(-num_mel_frames(num_samples) // 2)

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms at 16 kHz to (B, F, E).

        Raises:
            AudioError: A clip is longer than the window.
        """
        samples: list[int] = audio.lengths.tolist()
        window = self.sizes.num_positions * 2 * HOP
        check_window(samples, window, "whisper")
        padded = self.config.pad == "window"
        mel = log_mel(audio, self.sizes.num_mels, window, whole_window=padded)
        mel_lengths = [num_mel_frames(length) for length in samples]
        if self.augmentation is not None:
            mel = self.augmentation(mel, mel_lengths)
        if padded:
            mel_lengths = [mel.shape[-1]] * len(samples)
        seen = [-(-length // 2) for length in mel_lengths]
        mel = mel.to(self.model.conv1.weight.dtype)
        frames = self.taps(self.model(mel, mel_lengths, seen, self.taps.layers))  # (N, E)
        lengths = [self.num_frames(length) for length in samples]
        clips = [clip[:length] for clip, length in zip(frames.split(seen), lengths, strict=True)]
        return Padded(
            nn.utils.rnn.pad_sequence(clips, batch_first=True),
            torch.tensor(lengths, dtype=torch.int64, device=audio.lengths.device),
        )


def build_transformer(sizes: Sizes, taps: Taps, *, pairs: bool = False) -> WhisperTransformer:
    """Build the layers up to the highest tap, and the final norm where that is the last layer."""
    return WhisperTransformer(
        dim=sizes.dim,
        num_layers=taps.layers[-1],
        num_heads=sizes.num_heads,
        ffn_dim=sizes.ffn_dim,
        num_mels=sizes.num_mels,
        num_positions=sizes.num_positions,
        final_norm=taps.layers[-1] == sizes.num_layers,
        pairs=pairs,
    )


def unread(model: WhisperTransformer, sizes: Sizes) -> list[str]:
    """Return patterns of the tensors of a whole encoder that `model` did not build."""
    layers = [f"layers.{number}.*" for number in range(len(model.layers), sizes.num_layers)]
    return layers if model.layer_norm is not None else [*layers, "layer_norm.*"]


def tiny_mels(sizes: Sizes | None, spec_augment: SpecAugment | None) -> int:
    """Return the mel bands of a tiny variant: as many as `sizes` says, or enough for the masks."""
    if sizes is not None:
        return sizes.num_mels
    return max(80, spec_augment.freq_width) if spec_augment is not None else 80


def _read_sizes(files: WeightsFiles) -> Sizes:
    if is_ctranslate2(files):
        return sizes_of(encoder_sizes(open_whisper(files)), files.source, Sizes)
    config: dict[str, Any] = files.read_json("config.json")
    if config.get("model_type") != "whisper":
        raise WeightsError(
            f"{files.source}: is a {config.get('model_type')!r} model; encoder 'whisper' takes 'whisper'"
        )
    return sizes_of(config, files.source, Sizes)


def sizes_of(config: Mapping[str, Any], source: str, sizes: type[AnySizes]) -> AnySizes:
    """Read sizes under their names in transformers' `WhisperConfig`.

    Raises:
        WeightsError: They are missing or impossible, or the model is not a plain Whisper.
    """
    if config.get("activation_function", "gelu") != "gelu" or config.get("scale_embedding", False):
        raise WeightsError(f"{source}: is not a plain Whisper (gelu, embeddings not scaled)")
    try:
        return sizes(
            dim=config["d_model"],
            num_layers=config["encoder_layers"],
            num_heads=config["encoder_attention_heads"],
            ffn_dim=config["encoder_ffn_dim"],
            num_mels=config["num_mel_bins"],
            num_positions=config["max_source_positions"],
        )
    except KeyError as error:
        raise WeightsError(f"{source}: config.json lacks {error}") from error
    except ValueError as error:
        raise WeightsError(f"{source}: config.json: {error}") from error
