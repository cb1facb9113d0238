"""Pieces of a recording, and where it is cut when nobody listens for words: where it is quietest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FRAME_SECONDS = 0.1
"""Length of the frames whose loudness decides where speech without a pause is cut [s]."""
SEARCH_SHARE = 0.25
"""Share of a window, at its end, in which the quietest place is looked for."""
UNBOUNDED_SECONDS = 120.0
"""Longest piece for an encoder that takes clips of any length [s]: memory has an end."""


class CutPiece(NamedTuple):
    """A part of a recording.

    Attributes:
        start: Number of its first sample in the recording.
        samples: (S,) mono float32.
    """

    start: int
    samples: NDArray[np.float32]

    @property
    def end(self) -> int:
        """Number of the sample after its last one."""
        return self.start + len(self.samples)


def cut_at_quiet(clip: NDArray[np.float32], longest: int, frame: int) -> list[NDArray[np.float32]]:
    """Cut (S,) samples into pieces of at most `longest`, each cut in the quietest frame near a window's end.

    Args:
        clip: The samples; the pieces, end to end, are the clip.
        longest: Longest piece [samples].
        frame: Length of the frames that are compared [samples].
    """
    return list(cut_blocks([clip], longest, frame))


def cut_blocks(
    blocks: Iterable[NDArray[np.float32]], longest: int, frame: int
) -> Iterator[NDArray[np.float32]]:
    """Cut samples that come in blocks as `cut_at_quiet` does; little more than a piece is held.

    Yields:
        (S,) pieces.
    """
    held: list[NDArray[np.float32]] = []
    length = 0
    for block in blocks:
        held.append(block)
        length += len(block)
        if length <= longest:
            continue
        clip = np.concatenate(held) if len(held) > 1 else held[0]
        while len(clip) > longest:
            cut = quietest(clip, longest, frame)
            yield clip[:cut]
            clip = clip[cut:]
        held, length = [clip], len(clip)
    if held:
        yield np.concatenate(held) if len(held) > 1 else held[0]


def quietest(clip: NDArray[np.float32], longest: int, frame: int) -> int:
    """Return where to cut (S,) samples, at least `longest`: in the quietest frame near the window's end.

    Args:
        clip: The samples.
        longest: Longest piece [samples].
        frame: Length of the frames that are compared [samples].
    """
    first = int(longest * (1 - SEARCH_SHARE))
    frame = min(frame, longest - first)
    frames = clip[first:longest][: (longest - first) // frame * frame].reshape(-1, frame)
    return first + int(np.argmin(np.square(frames).mean(axis=1))) * frame + frame // 2
