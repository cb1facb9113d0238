"""A recording that is longer than the model's window, in pieces: cut between words, and each word once.

`silence` cuts where a detector hears nobody speak, and leaves long stretches of that out; `quietest` takes
the quietest frame near the window's end, and leaves nothing out. No two pieces overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kikimimi.errors import RequestError
from kikimimi.inference.cutting import FRAME_SECONDS, UNBOUNDED_SECONDS, CutPiece, cut_blocks
from kikimimi.inference.speech_cutter import SpeechCutter

Cut = Literal["silence", "quietest"]
"""Where a recording is cut."""
SUBTITLE_PAUSE = 0.5
"""Shortest silence that ends a subtitle, where nothing else is asked for [s]."""


def cut_recording(
    blocks: Iterable[NDArray[np.float32]],
    *,
    sample_rate: int,
    max_seconds: float | None,
    cut: Cut = "silence",
    pause: float | None = None,
) -> Iterator[CutPiece]:
    """Cut a recording that comes in blocks into pieces that a model can take; little more than one is held.

    A recording that is short enough stays whole, unless `pause` is given.

    Args:
        blocks: (S,) mono float32, end to end.
        sample_rate: Their sampling rate [Hz].
        max_seconds: Longest piece [s]; None stands for `UNBOUNDED_SECONDS`.
        cut: Where it is cut.
        pause: Shortest silence [s] that ends a piece, where it is cut at silence; None makes pieces as long
            as they may be.

    Yields:
        The pieces, in order. What lies between two is silence.

    Raises:
        RequestError: A pause is given, and it is not cut at silence.
        WeightsError: The weights of the detector are not there.
    """
    if pause is not None and cut != "silence":
        raise RequestError("pause: ends pieces where a recording is cut at silence, and this one is not")
    longest = int((UNBOUNDED_SECONDS if max_seconds is None else max_seconds) * sample_rate)
    if pause is None:
        short, blocks = _short(blocks, longest)
        if short is not None:
            yield from [CutPiece(0, short)] if len(short) else []
            return
    if cut == "quietest":
        start = 0
        for samples in cut_blocks(blocks, longest, int(FRAME_SECONDS * sample_rate)):
            yield CutPiece(start, samples)
            start += len(samples)
        return
    cutter = SpeechCutter(sample_rate, longest, pause)
    for block in blocks:
        yield from cutter.push(block)
    yield from cutter.finish()


def _short(
    blocks: Iterable[NDArray[np.float32]], longest: int
) -> tuple[NDArray[np.float32] | None, Iterable[NDArray[np.float32]]]:
    """Return a recording as one array where it is short enough, or all its blocks."""
    held: list[NDArray[np.float32]] = []
    length = 0
    blocks = iter(blocks)
    for block in blocks:
        held.append(block)
        length += len(block)
        if length > longest:
            return None, chain(held, blocks)
    return np.concatenate([*held, np.zeros(0, np.float32)]), []
