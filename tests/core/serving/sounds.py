"""Clips for requests."""

from __future__ import annotations

import io

import numpy as np
import soundfile
from numpy.typing import NDArray


def noise(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, round(16000 * seconds)).astype(np.float32)


def chord(seconds: float, seed: int) -> NDArray[np.float32]:
    """Make a sound that is unlike that of another seed."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(16000 * seconds)) / 16000
    waves = [np.sin(2 * np.pi * pitch * time) for pitch in generator.uniform(100, 4000, 4)]
    samples: NDArray[np.float32] = (generator.uniform(0.05, 0.2) * np.sum(waves, axis=0)).astype(np.float32)
    return samples


def audio_file(samples: NDArray[np.float32], kind: str = "WAV", rate: int = 16000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind)
    return buffer.getvalue()
