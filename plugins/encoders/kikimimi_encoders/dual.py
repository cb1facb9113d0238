"""Two encoders side by side, their channels concatenated."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kikimimi import Chosen, ComponentConfig, Encoder, Padded

RATE_TOLERANCE = 1e-3
"""Largest difference of the two frame rates, relative: a frame and a half in 30 s at 50 Hz."""


def _whisper() -> Chosen:
    return Chosen.of("encoder", "whisper")


class DualEncoder(Encoder):
    """Two encoders that hear the same clips (SALMONN: Tang et al. 2023, arXiv 2310.13289, section 3.1).

    Each one's frames are layer-normed over their own width, with weights that are always new (`ln_speech`
    and `ln_audio` in SALMONN's code), a clip's shorter sequence is padded with zeros to the longer, and the
    channels are concatenated. The two need one sample rate and one frame rate; each gives one layer, or a
    sum of several.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `dual` encoder."""

        first: Chosen = field(default_factory=_whisper, metadata={"kind": "encoder"})
        """The encoder of the first channels, with its options (SALMONN: Whisper)."""
        second: Chosen = field(default_factory=_whisper, metadata={"kind": "encoder"})
        """The encoder of the channels after those, with its options (SALMONN: BEATs)."""

        def __post_init__(self) -> None:
            for name, chosen in (("first", self.first), ("second", self.second)):
                if chosen.kind != "encoder":
                    raise ValueError(f"{name} must be an encoder, not of the kind '{chosen.kind}'")
                if chosen.lora is not None:
                    raise ValueError(
                        f"{name}.lora is not read here: set encoder.lora, which adapts both encoders"
                    )
                if chosen.dtype != "fp32":
                    raise ValueError(
                        f"{name}.dtype is not read here: set encoder.dtype, which holds for both encoders"
                    )
                if chosen.fixed is not None:
                    raise ValueError(
                        f"{name}.fixed is not read here: set encoder.fixed, with patterns such as '{name}.*'"
                    )

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.first = _build("first", config.first)
        self.second = _build("second", config.second)
        first, second = self.first, self.second
        if first.sample_rate != second.sample_rate:
            raise ValueError(
                f"first and second need one sample rate: '{config.first.name}' takes {first.sample_rate} Hz, "
                f"'{config.second.name}' {second.sample_rate} Hz"
            )
        if abs(first.frame_rate - second.frame_rate) > RATE_TOLERANCE * first.frame_rate:
            raise ValueError(
                f"first and second need one frame rate: '{config.first.name}' gives {first.frame_rate:g} "
                f"frames a second, '{config.second.name}' {second.frame_rate:g}"
            )
        self.sample_rate = first.sample_rate
        self.frame_rate = first.frame_rate
        self.dim = first.dim + second.dim
        bounds = [part.max_seconds for part in (first, second) if part.max_seconds is not None]
        self.max_seconds = min(bounds, default=None)
        inside = [part.padded_seconds for part in (first, second) if part.padded_seconds is not None]
        self.padded_seconds = max(inside, default=None)
        self.norm_first = nn.LayerNorm(first.dim)
        self.norm_second = nn.LayerNorm(second.dim)
        masks = [part.augmentation for part in (first, second) if part.augmentation is not None]
        # A second way to the modules of the two encoders, so that both are switched as one.
        self.augmentation = nn.ModuleList(masks) if masks else None

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return a config with the tiny variants of both encoders."""
        given: DualEncoder.Config = cls.Config() if config is None else config
        return replace(given, first=_tiny(given.first), second=_tiny(given.second))

    def load_weights(self) -> None:
        """Load both encoders' weights."""
        self.first.load_weights()
        self.second.load_weights()

    def pretrained_names(self) -> set[str]:
        """Return the names that the two encoders load: never those of the norms."""
        return {f"first.{name}" for name in self.first.pretrained_names()} | {
            f"second.{name}" for name in self.second.pretrained_names()
        }

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return both encoders' classes."""
        return self.first.shard_classes() | self.second.shard_classes()

    def save_assets(self, folder: Path) -> None:
        """Let both encoders write into folders of their own."""
        for name, part in (("first", self.first), ("second", self.second)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            part.save_assets(folder / name)

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of the encoder that gives more."""
        return max(self.first.num_frames(num_samples), self.second.num_frames(num_samples))

    def forward(self, audio: Padded) -> Padded:
        """Encode (B, S) waveforms to (B, F, E): the first encoder's channels, then the second's.

        Raises:
            AudioError: A clip is longer than one of the two takes.
        """
        first, second = self.first(audio), self.second(audio)
        lengths = torch.maximum(first.lengths, second.lengths)
        longest = int(lengths.max())
        values = [
            _normed(self.norm_first, first, longest),
            _normed(self.norm_second, second, longest),
        ]
        return Padded(torch.cat(values, dim=-1), lengths)


def _normed(norm: nn.LayerNorm, frames: Padded, longest: int) -> Tensor:
    """Layer-norm the frames of each clip; zeros follow, up to `longest`: (B, F, E) -> (B, longest, E)."""
    past = ~frames.mask()[..., None]
    # Masked before the norm too: the gradient of its weights would meet whatever stands there.
    values = norm(frames.values.masked_fill(past, 0.0)).masked_fill(past, 0.0)[:, :longest]
    return nn.functional.pad(values, (0, 0, 0, longest - values.shape[1]))


def _build(name: str, chosen: Chosen) -> Encoder:
    try:
        encoder = chosen.component(chosen.config)
    except ValueError as error:
        if type(error) is not ValueError:  # an error of kikimimi says already what it is about
            raise
        raise ValueError(f"{name}: {error}") from error
    assert isinstance(encoder, Encoder)
    if encoder.num_concat_layers != 1:
        raise ValueError(
            f"{name}.layers: '{chosen.name}' lays {encoder.num_concat_layers} layers side by side, and "
            "'dual' takes one layer, or several with combine: weighted_sum"
        )
    return encoder


def _tiny(chosen: Chosen) -> Chosen:
    return replace(chosen, config=chosen.component.tiny_config(chosen.config))
