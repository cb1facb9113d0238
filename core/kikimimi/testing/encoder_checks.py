"""Checks of encoders."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from kikimimi.data.audio import MIN_SECONDS
from kikimimi.errors import AudioError
from kikimimi.interfaces import Encoder, Padded
from kikimimi.testing.contract import ContractError, expect, expect_finite
from kikimimi.testing.subject import PaddedSubject

LONG_SECONDS = 31.0
"""Clip that an encoder without a bound has to take [s]: a little more than Whisper's window."""


class EncoderSubject(PaddedSubject):
    """An encoder under test; its inputs are tones in noise."""

    def construct(self) -> Encoder:
        """Build the tiny encoder."""
        return cast(Encoder, self.component(self.config))

    def sequences(self, part: Any) -> list[Tensor]:
        """Return four clips of 0.05 to 1 s."""
        return [waveform(round(seconds * part.sample_rate)) for seconds in (0.31, 1.0, 0.05, 0.7)]

    def run(self, part: Any, batch: Padded) -> tuple[Padded, dict[str, Tensor]]:
        """Encode."""
        return part(batch), {}


def waveform(num_samples: int) -> Tensor:
    """Return (S,) a tone in noise, always the same."""
    time = torch.arange(num_samples) / 16000
    noise = torch.randn(num_samples, generator=torch.Generator().manual_seed(num_samples))
    return 0.2 * torch.sin(2 * math.pi * 220 * time) + 0.02 * noise


def num_frames_is_exact(subject: EncoderSubject) -> None:
    """The output has `num_frames(S)` frames for every length S, at least 1, and `dim` values in each."""
    encoder = subject.build()
    rate = encoder.sample_rate
    lengths = [rate // 40 + extra for extra in (0, 1)]
    lengths += [rate // 4 + step for step in range(-2, 3)] + [rate // 2 + 123, rate]
    with torch.no_grad():
        output = encoder(Padded.stack([waveform(length) for length in lengths]))
    expect(isinstance(output, Padded), f"expected a kikimimi.Padded, found {type(output).__name__}")
    expect(
        output.lengths.dtype == torch.int64 and output.values.dim() == 3,
        f"expected (B, F, E) values with int64 lengths, found {tuple(output.values.shape)} with "
        f"{output.lengths.dtype}",
    )
    expect(
        output.values.shape[2] == encoder.dim,
        f"expected frames of `dim` = {encoder.dim} values, found {output.values.shape[2]}",
    )
    for samples, found in zip(lengths, output.lengths.tolist(), strict=True):
        expected = encoder.num_frames(samples)
        expect(
            expected == found and found >= 1,
            f"{samples} samples: num_frames says {expected}, forward gives {found} frames",
        )
    expect(
        output.values.shape[1] >= int(output.lengths.max()),
        f"expected room for {int(output.lengths.max())} frames, found {output.values.shape[1]}",
    )


def frame_rate_is_true(subject: EncoderSubject) -> None:
    """Over a long clip `num_frames` agrees with `frame_rate`, but for two frames at the edges."""
    encoder = subject.build()
    expect(encoder.sample_rate > 0, f"expected a sample_rate above 0, found {encoder.sample_rate}")
    seconds = min(encoder.max_seconds or LONG_SECONDS, LONG_SECONDS)
    found = encoder.num_frames(int(seconds * encoder.sample_rate))
    expect(
        abs(found - seconds * encoder.frame_rate) <= 2,
        f"frame_rate is {encoder.frame_rate} Hz, so that {seconds:g} s have about "
        f"{seconds * encoder.frame_rate:.1f} frames, but num_frames says {found}",
    )


def any_clip_works(subject: EncoderSubject) -> None:
    """The shortest clip that data may hold, silence, and full scale give finite frames."""
    encoder = subject.build()
    rate = encoder.sample_rate
    clips = {
        f"{MIN_SECONDS} s": waveform(math.ceil(MIN_SECONDS * rate)),
        "0.05 s": waveform(rate // 20),
        "0.5 s of silence": torch.zeros(rate // 2),
        "0.5 s of full scale": waveform(rate // 2).sign(),
    }
    for what, clip in clips.items():
        expect_finite(_encode(encoder, clip, what), f"a clip of {what}")


def longest_clip_works(subject: EncoderSubject) -> None:
    """A clip of `max_seconds` works (31 s where there is no bound), and a longer one raises an AudioError."""
    encoder = subject.build()
    if encoder.max_seconds is None:
        clip = waveform(int(LONG_SECONDS * encoder.sample_rate))
        expect_finite(_encode(encoder, clip, f"{LONG_SECONDS} s"), f"a clip of {LONG_SECONDS} s")
        return
    longest = int(encoder.max_seconds * encoder.sample_rate)
    seconds = f"{encoder.max_seconds:g} s (max_seconds)"
    expect_finite(_encode(encoder, waveform(longest), seconds), f"a clip of {seconds}")
    too_long = Padded.stack([waveform(longest + encoder.sample_rate), waveform(longest)])
    try:
        with torch.no_grad():
            encoder(too_long)
    except AudioError:
        return
    raise ContractError(f"a clip 1 s longer than {seconds}: expected a kikimimi.AudioError, found none")


def _encode(encoder: Any, clip: Tensor, what: str) -> Tensor:
    try:
        with torch.no_grad():
            frames: Tensor = encoder(Padded.stack([clip])).unstack()[0]
    except Exception as error:
        raise ContractError(
            f"a clip of {what}: expected frames, found {type(error).__name__}: {error}"
        ) from error
    expect(len(frames) >= 1, f"a clip of {what}: expected at least one frame, found none")
    return frames
