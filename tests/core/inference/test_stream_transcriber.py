from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from kikimimi.inference.stream_transcriber import StreamText, StreamTranscriber

RATE = 16_000


class Loud:
    """Takes for speech what is loud."""

    def __init__(self) -> None:
        self._held = np.zeros(0, np.float32)

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        held = np.concatenate([self._held, block])
        whole = len(held) // 512 * 512
        self._held = held[whole:]
        return np.asarray(np.abs(held[:whole].reshape(-1, 512)).max(axis=1) > 0.1, np.float32)

    def finish(self) -> NDArray[np.float32]:
        return self.push(np.zeros(-len(self._held) % 512, np.float32))


def clip_of(*stretches: tuple[float, float], seconds: float) -> NDArray[np.float32]:
    """Return silence, and loud samples in these stretches [s]."""
    clip = np.zeros(int(seconds * RATE), np.float32)
    for start, end in stretches:
        clip[int(start * RATE) : int(end * RATE)] = 0.5
    return clip


def stream(clip: NDArray[np.float32], block: int, step: float | None = 1.0) -> list[StreamText]:
    """Hear a clip; a text is the number of loud samples."""
    transcriber = StreamTranscriber(
        lambda samples: str(np.count_nonzero(samples)),
        sample_rate=RATE,
        max_seconds=10,
        step=step,
        hearing=Loud(),
    )
    texts: list[StreamText] = []
    for start in range(0, len(clip), block):
        texts += transcriber.push(clip[start : start + block])
    return [*texts, *transcriber.finish()]


CLIP = clip_of((1.0, 4.2), (5.0, 5.5), (5.7, 6.5), seconds=7)


@pytest.mark.parametrize("block", [160, 1600, 7777, len(CLIP)])
def test_final_texts_are_of_all_that_is_said(block: int) -> None:
    finals = [text.segment for text in stream(CLIP, block) if text.final]
    assert [int(segment.text) for segment in finals] == [int(3.2 * RATE), int(1.3 * RATE)]
    assert [segment.start for segment in finals] == pytest.approx([0.75, 4.75], abs=0.04)
    assert [segment.end for segment in finals] == pytest.approx([4.45, 6.75], abs=0.04)


def test_a_text_grows_before_it_is_final() -> None:
    texts = stream(CLIP, 1600)
    assert [text.final for text in texts] == [False, False, False, True, False, False, True]
    first = [text.segment for text in texts[:4]]
    assert len({segment.start for segment in first}) == 1
    assert [segment.end for segment in first] == sorted(segment.end for segment in first)
    assert all(int(a.text) < int(b.text) for a, b in pairwise(first))


def test_a_final_text_comes_with_its_pause() -> None:
    """Half a second of silence and a chunk of the detector after the last word, and no later."""
    transcriber = StreamTranscriber(
        lambda samples: "a", sample_rate=RATE, max_seconds=10, step=None, hearing=Loud()
    )
    for start in range(0, len(CLIP), 160):
        if any(text.final for text in transcriber.push(CLIP[start : start + 160])):
            assert start / RATE == pytest.approx(4.2 + 0.5, abs=0.07)
            return
    pytest.fail("no final text")


def test_much_at_once_is_not_transcribed_in_between() -> None:
    """A reader that is behind catches up: no unfinished text of what has ended meanwhile."""
    assert [text.final for text in stream(CLIP, len(CLIP))] == [True, False, True]
    assert [text.final for text in stream(CLIP, 1600, step=None)] == [True, True]
