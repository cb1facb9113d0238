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


class FailsOnLongClips(Windows):
    max_seconds = None

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        return super().encode(clip) / (0.0 if len(clip) > 30 * 16000 else 1.0)


BROKEN = [
    (WrongCount, "num_frames_is_exact", r"400 samples: num_frames says 1, forward gives 2 frames"),
    (WrongWidth, "num_frames_is_exact", r"expected frames of `dim` = 16 values, found 8"),
    (WrongRate, "frame_rate_is_true", r"about 1470\.0 frames, but num_frames says 1500"),
    (NeedsHalfASecond, "any_clip_works", r"a clip of 0\.025 s: expected frames, found RuntimeError: kernel"),
    (DividesByLoudness, "any_clip_works", r"a clip of 0\.5 s of silence: expected finite values, found 200"),
    (CutsLongClips, "longest_clip_works", r"1 s longer than 30 s \(max_seconds\): expected a .*AudioError"),
    (FailsOnLongClips, "longest_clip_works", r"a clip of 31\.0 s: expected finite values"),
]


def test_a_sound_encoder_passes() -> None:
    for check in list_checks("encoder", Windows):
        if check.name != "import_is_quiet":  # test_import_check.py
            check()


@pytest.mark.parametrize(("component", "name", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_is_caught(component: type, name: str, message: str) -> None:
    check = next(check for check in list_checks("encoder", component) if check.name == name)
    with pytest.raises(AssertionError, match=message):
        check()


def test_every_check_of_encoders_has_something_to_catch() -> None:
    assert {name for _, name, _ in BROKEN} == {function.__name__ for function in FOR_ENCODERS}
