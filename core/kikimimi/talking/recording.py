"""What somebody recorded, cut so that a model can hear it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kikimimi.console.words import counted, nearest
from kikimimi.data.audio import decode, is_silent
from kikimimi.data.stream import no_file
from kikimimi.errors import DataError, RequestError
from kikimimi.files.writing import what_to_do
from kikimimi.inference.cutting import FRAME_SECONDS, cut_at_quiet
from kikimimi.inference.recording import cut_recording

LONGEST_RECORDING = 1800.0
"""Longest recording [s]: all of it is held while it is talked about, as 115 MB at 16 kHz."""


@dataclass(frozen=True)
class Ears:
    """What a model can hear.

    Attributes:
        sample_rate: Sampling rate of clips [Hz].
        max_seconds: Longest clip [s]; None means unbounded.
    """

    sample_rate: int
    max_seconds: float | None

    def hear_file(self, path: Path, name: str | None = None) -> Recording:
        """Decode an audio file.

        Args:
            path: The file.
            name: What messages call it; None is its path.

        Raises:
            RequestError: No file is at that path.
            DataError: It cannot be read or decoded, lasts longer than `LONGEST_RECORDING`, or is silent.
        """
        name = str(path) if name is None else name
        try:
            if problem := no_file(path):
                is_there = os.path.exists(path) or not os.path.isdir(path.parent)
                beside = [] if is_there else os.listdir(path.parent)
                raise RequestError(f"{name}: {problem}.{nearest(path.name, beside)}")
            samples = decode(path, sample_rate=self.sample_rate, name=name, max_seconds=LONGEST_RECORDING)
        except OSError as error:
            raise DataError(f"{name}: {error.strerror}. {what_to_do(error, reading=True)}") from error
        return self.hear(samples, name)

    def hear(self, samples: NDArray[np.float32], name: str) -> Recording:
        """Cut a recording that is longer than the model takes where nobody speaks; nothing is left out.

        Args:
            samples: (S,) mono float32 at `sample_rate`.
            name: What messages call it.

        Raises:
            DataError: It is silent.
        """
        if is_silent(samples):
            raise DataError(f"{name}: silence: nothing can be heard in it. Is the microphone on?")
        pieces = tuple(map(torch.from_numpy, self._pieces(samples)))
        return Recording(name, pieces, len(samples) / self.sample_rate, self.max_seconds)

    def _pieces(self, samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        if self.max_seconds is None or len(samples) <= self.max_seconds * self.sample_rate:
            yield samples
            return
        longest, frame = (int(seconds * self.sample_rate) for seconds in (self.max_seconds, FRAME_SECONDS))
        spoken = cut_recording([samples], sample_rate=self.sample_rate, max_seconds=self.max_seconds)
        begin = end = 0
        # What is said goes on to where somebody speaks again; a longer rest is cut where it is quietest.
        for start, until in [*((piece.start, piece.end) for piece in spoken), (len(samples), 0)]:
            if begin < start <= begin + longest:
                yield samples[begin:start]
            else:
                yield from [samples[begin:end]] if begin < end else []
                yield from cut_at_quiet(samples[end:start], longest, frame) if end < start else []
            begin, end = start, until


@dataclass(frozen=True)
class Recording:
    """What was heard.

    Attributes:
        name: What messages call it.
        pieces: One (S,) clip, or several where it is longer than a model takes; end to end all of it.
        seconds: Length [s].
        max_seconds: Longest clip that the model takes [s]; None means unbounded.
    """

    name: str
    pieces: tuple[Tensor, ...]
    seconds: float
    max_seconds: float | None

    @property
    def told(self) -> str:
        """What a person is told of it: its length, and how it was cut."""
        heard = f"{self.name}: {self.seconds:.1f} s"
        if len(self.pieces) == 1:
            return heard
        return (
            f"{heard}, longer than the encoder's {self.max_seconds:g} s: it is heard in "
            f"{counted(len(self.pieces), 'piece')}, cut where nobody speaks"
        )
