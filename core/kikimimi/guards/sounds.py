"""Clips in which nobody speaks: silence, noises, hum and tones, made from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SECONDS = (1.0, 2.0, 5.0, 10.0)
"""Lengths of the clips [s]."""
_LEVELS = (-50.0, -40.0, -30.0, -20.0)  # root mean square [dB of full scale], of each length
_MAINS = (50.0, 60.0)
_SEED = 0


@dataclass(frozen=True)
class SpeechlessClip:
    """A clip in which nobody speaks.

    Attributes:
        name: What is heard, and for how long.
        samples: (S,) float32 in [-1, 1].
    """

    name: str
    samples: NDArray[np.float32]


def speechless_clips(sample_rate: int, longest: float | None = None) -> list[SpeechlessClip]:
    """Return silence, white and pink noise, hum of the mains and a tone, each of every length.

    Args:
        sample_rate: Samples per second [Hz].
        longest: Longest clip that is taken [s]: those that are longer are made so long; None is no limit.
    """
    random = np.random.default_rng(_SEED)
    made = []
    for number, (seconds, level) in enumerate(zip(SECONDS, _LEVELS, strict=True)):
        length = min(seconds, longest) if longest is not None else seconds
        count = int(length * sample_rate)
        time = np.arange(count) / sample_rate
        mains, pitch = _MAINS[number % 2], 220.0 * 2 ** (number * 7 / 12)
        white, noise = random.standard_normal(count), random.standard_normal(count)
        overtones = [np.sin(2 * np.pi * mains * k * time) / k for k in (1, 2, 3, 5)]
        waves = {
            "silence": np.zeros(count),
            "white noise": white,
            "pink noise": _pink(noise),
            f"hum of {mains:g} Hz": np.sum(overtones, axis=0),
            f"tone of {pitch:.0f} Hz": np.sin(2 * np.pi * pitch * time),
        }
        made += [SpeechlessClip(f"{name}, {length:g} s", _at(wave, level)) for name, wave in waves.items()]
    return made


def _pink(white: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return noise whose power falls with 1 / f."""
    spectrum = np.fft.rfft(white)
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    return np.fft.irfft(spectrum, len(white))


def _at(wave: NDArray[np.float64], level: float) -> NDArray[np.float32]:
    size = np.sqrt(np.mean(wave**2))
    loud = wave * (10 ** (level / 20) / size) if size else wave
    return np.clip(loud, -1, 1).astype(np.float32)
