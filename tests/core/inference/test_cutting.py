"""Cutting: every sample of speech is in one piece, and none in two."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from kikimimi.inference.cutting import (
    SEARCH_SHARE,
    UNBOUNDED_SECONDS,
    CutPiece,
    cut_at_quiet,
)
from kikimimi.inference.recording import cut_recording
from kikimimi.inference.speech_cutter import SpeechCutter

RATE = 1000  # so that a chunk has 32 samples


class Told:
    """Hears what it was told: the probability of speech in each chunk."""

    def __init__(self, speech: list[float]) -> None:
        self.speech, self.heard, self.told = speech, 0, 0

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        self.heard += len(block)
        before, self.told = self.told, self.heard // 32
        return np.array(self.speech[before : self.told], np.float32)

    def finish(self) -> NDArray[np.float32]:
        return np.array(self.speech[self.told :], np.float32)


def noise(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, count).astype(np.float32)


def cut(
    clip: NDArray[np.float32], speech: list[float], longest: int, pause: float | None, block: int
) -> list[CutPiece]:
    cutter = SpeechCutter(RATE, longest, pause, Told(speech))

    def pieces() -> Iterator[CutPiece]:
        for start in range(0, len(clip), block):
            yield from cutter.push(clip[start : start + block])
        yield from cutter.finish()

    return list(pieces())


def told(*stretches: tuple[float, float], seconds: float) -> tuple[NDArray[np.float32], list[float]]:
    """Return noise, and that somebody speaks in these stretches [s] of it."""
    clip = noise(int(seconds * RATE))
    middles = (np.arange(-(-len(clip) // 32)) + 0.5) * 0.032
    return clip, [float(any(a <= middle < b for a, b in stretches)) for middle in middles]


runs = st.lists(
    st.tuples(st.sampled_from([0.0, 0.4, 0.9]), st.integers(1, 120)), min_size=1, max_size=30
).map(lambda runs: [probability for probability, count in runs for _ in range(count)])


@given(
    speech=runs,
    left_out=st.integers(0, 31),
    longest=st.integers(1000, 4000),
    pause=st.none() | st.floats(0.1, 2),
    block=st.integers(1, 5000),
    seed=st.integers(0, 9),
)
def test_every_sample_of_speech_is_heard_once(
    speech: list[float], left_out: int, longest: int, pause: float | None, block: int, seed: int
) -> None:
    clip = noise(len(speech) * 32 - left_out, seed)
    pieces = cut(clip, speech, longest, pause, block)
    for piece in pieces:
        np.testing.assert_array_equal(piece.samples, clip[piece.start : piece.end])
        assert 0 < len(piece.samples) <= longest
    assert all(before.end <= after.start for before, after in pairwise(pieces))
    heard = np.zeros(len(clip), bool)
    for piece in pieces:
        heard[piece.start : piece.end] = True
    # Speech is what is probable for longer than a click.
    for start, end in stretches_of([probability == 0.9 for probability in speech]):
        if len(clip[start * 32 : end * 32]) >= 100:
            assert heard[start * 32 : end * 32].all()
    # A piece begins and ends with what may be a part of a word, or 0.25 s from it.
    near = np.zeros(len(clip), bool)
    for start, end in stretches_of([probability > 0 for probability in speech]):
        near[max(0, start * 32 - 250) : end * 32 + 250] = True
    assert all(near[piece.start] and near[piece.end - 1] for piece in pieces)
    # Blocks of any length are cut alike.
    again = cut(clip, speech, longest, pause, 1 + block % 97)
    assert [(piece.start, piece.end) for piece in again] == [(piece.start, piece.end) for piece in pieces]


def stretches_of(spoken: list[bool]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff([False, *spoken, False])).tolist()
    return zip(edges[::2], edges[1::2], strict=True)


def seconds(pieces: list[CutPiece]) -> list[tuple[float, float]]:
    return [(round(piece.start / RATE, 1), round(piece.end / RATE, 1)) for piece in pieces]


def test_a_piece_ends_in_the_longest_pause_of_its_second_half() -> None:
    clip, speech = told((1, 2), (5, 6), (6.2, 7.4), (8, 8.8), (9, 10.8), seconds=12)
    # Longer than the pause from 7.4 s to 8 s is that from 2 s to 5 s, but it is early.
    assert seconds(cut(clip, speech, 9000, None, 500)) == [(0.7, 7.6), (7.8, 11.0)]
    # Where all of it fits, pauses do not matter.
    assert seconds(cut(clip, speech, 11000, None, 500)) == [(0.7, 11.0)]


def test_a_pause_ends_a_piece_where_that_is_asked_for() -> None:
    clip, speech = told((1, 2), (5, 6), (6.2, 7.4), (8, 8.8), (9, 10.8), seconds=12)
    assert seconds(cut(clip, speech, 9000, 0.5, 500)) == [(0.7, 2.2), (4.7, 7.6), (7.8, 11.0)]
    assert seconds(cut(clip, speech, 9000, 1.0, 500)) == [(0.7, 2.2), (4.7, 11.0)]
    for_ever = cut(clip, speech, 9000, math.inf, 500)
    assert seconds(for_ever) == seconds(cut(clip, speech, 9000, None, 500))


def test_a_piece_is_complete_when_its_pause_is() -> None:
    """A microphone is not kept waiting: half a second of silence, and the piece is there."""
    clip, speech = told((1, 2), seconds=9)
    cutter = SpeechCutter(RATE, 9000, 0.5, Told(speech))
    assert list(cutter.push(clip[:900])) == []
    before = cutter.unfinished
    assert before is None
    assert list(cutter.push(clip[900:1500])) == []
    unfinished = cutter.unfinished
    assert unfinished is not None
    np.testing.assert_array_equal(unfinished.samples, clip[unfinished.start : 1500])
    assert list(cutter.push(clip[1500:2450])) == []
    (piece,) = cutter.push(clip[2450:2600])
    assert seconds([piece]) == [(0.7, 2.2)]
    after = cutter.unfinished
    assert after is None


def test_speech_without_a_pause_is_cut_where_it_is_quietest() -> None:
    clip, speech = told((1, 9), seconds=10)
    clip[4100:4200] = 0
    first, second, *_ = cut(clip, speech, 4000, None, 500)
    assert 4100 < first.end < 4200
    assert second.start == first.end


def test_silence_is_not_held() -> None:
    cutter = SpeechCutter(RATE, 4000, None, Told([0.0] * 10000))
    for _ in range(100):
        assert list(cutter.push(np.zeros(1000, np.float32))) == []
        assert len(cutter._samples) <= 3 * RATE
    assert list(cutter.finish()) == []


def test_what_fits_stays_whole() -> None:
    clip = noise(5 * RATE)
    (piece,) = cut_recording([clip[:10], clip[10:]], sample_rate=RATE, max_seconds=5)
    np.testing.assert_array_equal(piece.samples, clip)
    assert piece.start == 0
    assert list(cut_recording([], sample_rate=RATE, max_seconds=5)) == []


def test_quietest_leaves_nothing_out() -> None:
    clip = noise(int(2.5 * UNBOUNDED_SECONDS * RATE))
    blocks = np.array_split(clip, 7)
    pieces = list(cut_recording(blocks, sample_rate=RATE, max_seconds=None, cut="quietest"))
    assert len(pieces) > 2
    assert all(before.end == after.start for before, after in pairwise(pieces))
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), clip)


@given(
    length=st.integers(1, 5000),
    longest=st.integers(4, 900),
    frame=st.integers(1, 300),
    seed=st.integers(0, 99),
)
def test_the_pieces_are_the_clip(length: int, longest: int, frame: int, seed: int) -> None:
    clip = noise(length, seed)
    pieces = cut_at_quiet(clip, longest, frame)
    np.testing.assert_array_equal(np.concatenate(pieces), clip)
    assert all(0 < len(piece) <= longest for piece in pieces)
    # Every piece but the last fills most of the window: as few pieces as the search for quiet allows.
    assert all(len(piece) >= int(longest * (1 - SEARCH_SHARE)) for piece in pieces[:-1])


@given(length=st.integers(30 * 16000, 100 * 16000))
def test_no_piece_of_a_real_window_is_too_short_to_hear(length: int) -> None:
    pieces = cut_at_quiet(np.zeros(length, np.float32), 30 * 16000, 1600)
    assert all(len(piece) >= 800 for piece in pieces)


def test_the_cut_is_in_the_pause() -> None:
    clip = noise(1000)
    clip[850:900] = 0
    pieces = cut_at_quiet(clip, 950, 10)
    assert 850 <= len(pieces[0]) <= 900
    assert [len(piece) for piece in cut_at_quiet(clip, 1000, 10)] == [1000]
