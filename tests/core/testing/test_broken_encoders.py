"""Encoders that each break the contract in one way, and the check that has to notice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from kikimimi import AudioError, ComponentConfig, Encoder, Padded
from kikimimi.testing import list_checks
from kikimimi.testing.checks import FOR_ENCODERS


class Windows(Encoder):
    """Windows of 20 ms through one linear layer: the smallest encoder that keeps the contract."""

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        dim: int = 8
        """Width E of the frames."""

    sample_rate = 16000
    frame_rate = 50.0
    max_seconds: float | None = 30.0

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dim = config.dim
        self.linear = nn.Linear(320, config.dim)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        return config or cls.Config()

    def shard_classes(self) -> set[type[nn.Module]]:
        return {nn.Linear}

    def num_frames(self, num_samples: int) -> int:
        return max(1, -(-num_samples // 320))

    def forward(self, audio: Padded) -> Padded:
        clips = audio.unstack()
        for clip in clips:
            if self.max_seconds is not None and len(clip) > self.max_seconds * self.sample_rate:
                raise AudioError("too long")
        return Padded.stack([self.encode(clip) for clip in clips])

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        missing = -len(clip) % 320
        windows = nn.functional.pad(clip, (0, missing)).view(-1, 320)
        encoded: torch.Tensor = self.linear(windows.to(self.linear.weight.dtype))
        return encoded


class LearnsNothingDownstream(Windows):
    def __init__(self, config: Windows.Config) -> None:
        super().__init__(config)
        self.level = nn.Parameter(torch.zeros(1))

    def downstream_names(self) -> set[str]:
        return {"level"}

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        return super().encode(clip) + self.level.detach()


class NamesNothing(Windows):
    def downstream_names(self) -> set[str]:
        return {"level"}


class WrongCount(Windows):
    def num_frames(self, num_samples: int) -> int:
        return max(1, num_samples // 320)


class WrongWidth(Windows):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.dim = 16


class WrongRate(Windows):
    frame_rate = 49.0


class NeedsHalfASecond(Windows):
    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        if len(clip) < 8000:
            raise RuntimeError("kernel larger than input")
        return super().encode(clip)


class DividesByLoudness(Windows):
    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        return super().encode(clip / clip.std())


class CutsLongClips(Windows):
    def forward(self, audio: Padded) -> Padded:
        return Padded.stack([self.encode(clip[: 30 * 16000]) for clip in audio.unstack()])


class ShortWindow(Windows):
    max_seconds = 10.0

    def forward(self, audio: Padded) -> Padded:
        if audio.values.shape[1] > 30 * 16000:
            return Padded.stack([self.encode(clip[:160000]) for clip in audio.unstack()])
        return super().forward(audio)


class StopsBeforeItsBound(Windows):
    max_seconds = 1e5

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        if len(clip) > 30 * 16000:
            raise RuntimeError("no more positions")
        return super().encode(clip)


class UnevenLayers(Windows):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_concat_layers = 3


class Noise(nn.Module):
    """Adds noise while training."""

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return clip + 0.1 * torch.randn_like(clip) if self.training else clip


class Augmented(Windows):
    """A sound encoder with an augmentation."""

    augment: type[nn.Module] = Noise

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.augmentation = self.augment()

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        assert self.augmentation is not None
        return super().encode(self.augmentation(clip))


class Always(Noise):
    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return clip + 0.1 * torch.ones_like(clip)


class Shortens(Noise):
    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return clip[: len(clip) // 2] if self.training else clip


class Overflows(Noise):
    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return clip / 0.0 if self.training else clip


class AugmentsAlways(Augmented):
    augment = Always


class AugmentsNever(Augmented):
    augment = nn.Identity


class AugmentsLengths(Augmented):
    augment = Shortens


class AugmentsToInfinity(Augmented):
    augment = Overflows


class ForgetsToAugment(Augmented):
    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        return Windows.encode(self, clip)


class AugmentsByFunction(Windows):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        object.__setattr__(self, "augmentation", torch.relu)


class FailsOnLongClips(Windows):
    max_seconds = None

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        return super().encode(clip) / (0.0 if len(clip) > 30 * 16000 else 1.0)


class CountsByDividing(Windows):
    def num_frames(self, num_samples: int) -> Any:
        return float(super().num_frames(num_samples))


class RefusesByAnotherError(ShortWindow):
    def forward(self, audio: Padded) -> Padded:
        try:
            return super().forward(audio)
        except AudioError as error:
            raise ValueError("too long") from error


class FramesAlone(Windows):
    def forward(self, audio: Padded) -> Any:
        return super().forward(audio).values


BROKEN = [
    (CountsByDividing, "num_frames_is_exact", r"num_frames: expected an int, found \d+\.0"),
    (RefusesByAnotherError, "longest_clip_works", r"expected a kikimimi\.AudioError, found ValueError: too"),
    (FramesAlone, "num_frames_is_exact", r"expected a kikimimi\.Padded, found Tensor"),
    (WrongCount, "num_frames_is_exact", r"400 samples: num_frames says 1, forward gives 2 frames"),
    (WrongWidth, "num_frames_is_exact", r"expected frames of `dim` = 16 values, found 8"),
    (WrongRate, "frame_rate_is_true", r"about 1470\.0 frames, but num_frames says 1500"),
    (NeedsHalfASecond, "any_clip_works", r"a clip of 0\.025 s: expected frames, found RuntimeError: kernel"),
    (DividesByLoudness, "any_clip_works", r"a clip of 0\.5 s of silence: expected finite values, found 200"),
    (
        CutsLongClips,
        "longest_clip_works",
        r"a clip of 31 s, longer than 30 s \(max_seconds\): expected a .*AudioError",
    ),
    (ShortWindow, "longest_clip_works", r"a clip of 31 s, longer than 10 s \(max_seconds\): expected a kik"),
    (
        StopsBeforeItsBound,
        "longest_clip_works",
        r"a clip of 31\.0 s: expected frames, found RuntimeError: no m",
    ),
    (
        UnevenLayers,
        "layers_divide_the_width",
        r"num_concat_layers of at least 1 that divides dim = 8, found 3",
    ),
    (
        AugmentsAlways,
        "augmentation_is_for_training",
        r"in eval mode: expected its input as it is, found it ch",
    ),
    (
        LearnsNothingDownstream,
        "downstream_weights_train_alone",
        r"all else frozen and torch\.float32: expected a gradient, found none in level",
    ),
    (
        NamesNothing,
        "downstream_weights_train_alone",
        r"downstream_names: expected names of parameters, found level",
    ),
    (AugmentsNever, "augmentation_is_for_training", r"expected other frames within 20 draws, found the same"),
    (
        AugmentsLengths,
        "augmentation_is_for_training",
        r"in train mode: expected output lengths \[16, 50, 3, 35\], found \[8, 25, 2, 18\]",
    ),
    (AugmentsToInfinity, "augmentation_is_for_training", r"in train mode: clip 0: expected finite values"),
    (
        ForgetsToAugment,
        "augmentation_is_for_training",
        r"expected the encoder to call it, found that it does",
    ),
    (
        AugmentsByFunction,
        "augmentation_is_for_training",
        r"expected a torch.nn.Module or None, found builtin_f",
    ),
    (FailsOnLongClips, "longest_clip_works", r"a clip of 31\.0 s: expected finite values"),
]


@pytest.mark.parametrize("component", [Windows, Augmented])
def test_a_sound_encoder_passes(component: type) -> None:
    for check in list_checks("encoder", component):
        if check.name != "import_is_quiet":  # test_import_check.py
            check()


@pytest.mark.parametrize(("component", "name", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_is_caught(component: type, name: str, message: str) -> None:
    check = next(check for check in list_checks("encoder", component) if check.name == name)
    with pytest.raises(AssertionError, match=message):
        check()


def test_every_check_of_encoders_has_something_to_catch() -> None:
    assert {name for _, name, _ in BROKEN} == {function.__name__ for function in FOR_ENCODERS}
