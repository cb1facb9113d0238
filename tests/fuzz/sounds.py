"""Clips that are damaged: something like speech, in the formats that records carry."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.audio import encode_audio, encode_flac, encode_opus

RATE = 16_000


def speech(seconds: float) -> NDArray[np.float32]:
    """Return something with the spectrum of speech, at `RATE`."""
    rng = np.random.default_rng(0)
    samples = np.cumsum(rng.normal(size=int(seconds * RATE)))
    samples -= np.linspace(samples[0], samples[-1], len(samples))
    loud: NDArray[np.float32] = (0.5 * samples / np.abs(samples).max()).astype(np.float32)
    return loud


def sounds() -> dict[str, Any]:
    """Return clips by the ending of their names."""
    samples = speech(0.7)
    stereo = np.stack([samples, 0.5 * samples], axis=1)
    return {
        "flac": encode_flac(samples, RATE),
        "opus": encode_opus(samples, RATE),
        "wav": encode_audio(samples, RATE, kind="WAV", subtype="PCM_16"),
        "stereo.wav": encode_audio(stereo, RATE, kind="WAV", subtype="FLOAT"),
        "stereo.flac": encode_audio(stereo, 44_100, kind="FLAC", subtype="PCM_24"),
        "ogg": encode_audio(samples, RATE, kind="OGG", subtype="VORBIS"),
        "mp3": encode_audio(samples, RATE, kind="MP3", subtype="MPEG_LAYER_III"),
    }
