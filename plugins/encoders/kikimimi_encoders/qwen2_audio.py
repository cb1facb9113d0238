"""Qwen2-Audio's encoder: Whisper's layers, averaged in pairs to 25 frames a second."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

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
from kikimimi.errors import listing
from kikimimi.weights import CONFIG_PATTERNS, load_state
from kikimimi_encoders.log_mel import HOP, SAMPLE_RATE, check_window, log_mel, num_mel_frames
from kikimimi_encoders.spec_augment import SpecAugment, SpectrogramMasking
from kikimimi_encoders.whisper import Sizes, build_transformer, sizes_of, tiny_mels, unread
from kikimimi_encoders.whisper_layers import WhisperEncoderLayer, num_pairs

_PREFIXES = {
    "qwen2_audio": ("audio_tower.", "model.audio_tower."),
    "qwen2_audio_encoder": ("",),
    "whisper": ("model.encoder.", "encoder."),
}
"""Where the encoder's tensors stand in a checkpoint, by the model's type."""


@dataclass(kw_only=True, frozen=True)
class Qwen2AudioSizes(Sizes):
    """Sizes of a Qwen2-Audio encoder with random weights; the defaults are those of Qwen2-Audio-7B."""

    dim: int = 1280
    """Width E of the frames; even."""
    num_layers: int = 32
    """Transformer layers."""
    num_heads: int = 20
    """Attention heads; they divide `dim`."""
    ffn_dim: int = 5120
    """Inner width of the feed-forward network."""
    num_mels: int = 128
    """Mel bands of the spectrogram."""
    num_positions: int = 1500
    """Longest clip [frames of 20 ms]."""


class Qwen2AudioEncoder(Encoder):
    """The encoder of Qwen2-Audio (Chu et al. 2024, arXiv 2407.10759), without transformers' 30 s padding.

    Whisper large-v3's layers, then the mean of every two frames, then the final norm (`Qwen2AudioEncoder` in
    transformers). An odd last frame has no part, as there; a clip of a single frame, which has no output
    there, is that frame here. Attention stays within the clip's own frames, as under the reference's mask.
    `pad` says what the convolutions see after the clip: nothing, or the spectrogram of silence up to the
    window, with which the frames equal the reference's.

    Only the layers up to the highest that `layers` names are built, and loaded.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `qwen2_audio` encoder."""

        weights: str = "Qwen/Qwen2-Audio-7B"
        """A Qwen2-Audio of transformers, whole or its encoder alone, or a Whisper, from which Qwen2-Audio's
        training began and whose tensors are the same: a Hub id, a folder, `package:...`; or
        `random`."""
        pad: Literal["none", "window"] = "none"
        """What the convolutions see: the clip alone, or the clip padded with silence to the window (30 s)."""
        sizes: Qwen2AudioSizes | None = None
        """Sizes with `weights: random` (None: those of Qwen2-Audio-7B); refused with any other weights."""
        layers: list[int] | None = None
        """Layers whose outputs, averaged in pairs, are the frames (None: the last): 0 is what enters the
        first layer, i what leaves the i-th; the last one's go through the final norm."""
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
    frame_rate = SAMPLE_RATE / HOP / 4

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        files = find_weights(config.weights, patterns=CONFIG_PATTERNS)
        self.sizes = (config.sizes or Qwen2AudioSizes()) if files is None else _read_sizes(files)
        self.max_seconds = self.sizes.num_positions * 2 * HOP / SAMPLE_RATE
        self.taps = Taps(config.layers, config.combine, self.sizes.num_layers)
        self.num_taps = self.taps.num_taps
        self.dim = self.sizes.dim * self.num_taps
        if config.spec_augment is not None:
            self.augmentation = SpectrogramMasking(config.spec_augment, self.sizes.num_mels)
        self.model = build_transformer(self.sizes, self.taps, pairs=True)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return a config of 2 layers x 32 with random weights that pads, taps and masks as `config` does."""
        given: Qwen2AudioEncoder.Config = cls.Config() if config is None else config
        num_layers = 2
        return replace(
            given,
            weights="random",
            sizes=Qwen2AudioSizes(
                dim=32,
                num_layers=num_layers,
                num_heads=2,
                ffn_dim=64,
                num_mels=tiny_mels(given.sizes or Qwen2AudioSizes(), given.spec_augment),
            ),
            layers=tiny_layers(given.layers, num_layers),
        )

    def load_weights(self) -> None:
        """Fill from safetensors, of the encoder's tensors only.

        Raises:
            WeightsError: The tensors do not fit.
        """
        files = find_weights(self.config.weights)
        if files is None:
            return
        # The encoder alone, or inside a whole model: as published, or as transformers names it in memory.
        prefixes = _PREFIXES[files.read_json("config.json")["model_type"]]
        state = next((state for prefix in prefixes if (state := files.state_dict(prefix))), {})
        load_state(self.model, state, source=files.source, ignore=unread(self.model, self.sizes))

    def pretrained_names(self) -> set[str]:
        """Return all names but those of the learned shares of layers, where the weights have a source."""
        return {name for name in super().pretrained_names() if not name.startswith("taps.")}

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the encoder layer's class; where no layer is read, that of the convolutions."""
        return {WhisperEncoderLayer if self.model.layers else nn.Conv1d}

    def num_frames(self, num_samples: int) -> int:
        """Return how many pairs the 20 ms frames that the clip touches make: at least 1."""
        return num_pairs(-(-num_mel_frames(num_samples) // 2))

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms at 16 kHz to (B, F, E).

        Raises:
            AudioError: A clip is longer than the window.
        """
        samples: list[int] = audio.lengths.tolist()
        window = self.sizes.num_positions * 2 * HOP
        check_window(samples, window, "qwen2_audio")
        padded = self.config.pad == "window"
        mel = log_mel(audio, self.sizes.num_mels, window, whole_window=padded)
        mel_lengths = [num_mel_frames(length) for length in samples]
        if self.augmentation is not None:
            mel = self.augmentation(mel, mel_lengths)
        own = [-(-length // 2) for length in mel_lengths]
        if padded:
            mel_lengths = [mel.shape[-1]] * len(samples)
        mel = mel.to(self.model.conv1.weight.dtype)
        frames = self.taps(self.model(mel, mel_lengths, own, self.taps.layers))  # (N, E)
        lengths = [num_pairs(length) for length in own]
        return Padded(
            nn.utils.rnn.pad_sequence(list(frames.split(lengths)), batch_first=True),
            torch.tensor(lengths, dtype=torch.int64, device=audio.lengths.device),
        )


def _read_sizes(files: WeightsFiles) -> Qwen2AudioSizes:
    config: dict[str, Any] = files.read_json("config.json")
    found = config.get("model_type")
    if found not in _PREFIXES:
        raise WeightsError(
            f"{files.source}: is a {found!r} model; encoder 'qwen2_audio' takes {listing(_PREFIXES)}"
        )
    if found == "qwen2_audio":
        config = config.get("audio_config") or {}
    return sizes_of(config, files.source, Qwen2AudioSizes)
