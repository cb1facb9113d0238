"""Cuts a recording at silence as it comes, so that a file of hours and a microphone are cut alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kikimimi.inference.cutting import FRAME_SECONDS, CutPiece, quietest
from kikimimi.inference.voice_activity import CHUNK_SECONDS, SpeechDetector

_SPEECH, _SILENCE = 0.5, 0.35
"""Probabilities from which somebody speaks, and below which nobody does any more (Silero's own)."""
_SHORTEST_SPEECH = 0.1  # s; what is shorter is a click
_SHORTEST_SILENCE = 0.1  # s; what is shorter is a part of a word (Silero's own)
_AROUND = 0.25  # s before and after speech that are heard with it: breath, soft consonants


class Hearing(Protocol):
    """What says of each chunk of `CHUNK_SECONDS` how probable it is that somebody speaks."""

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Hear (S,) samples; return the probabilities of the chunks that are whole by now."""
        ...

    def finish(self) -> NDArray[np.float32]:
        """Return the probability of what is left at the end, if anything is."""
        ...


class _Region(NamedTuple):
    """Where somebody speaks, without a pause [samples]."""

    start: int
    end: int


class SpeechCutter:
    """Cuts what comes in blocks into pieces of speech.

    Every sample of speech is in one piece, with up to 0.25 s around it; what else lies between two pieces is
    silence. A piece that would be too long ends in the longest pause of its second half, or else in its last
    pause; speech without a pause is cut in the quietest frame near the window's end.

    Args:
        sample_rate: Sampling rate of the blocks [Hz].
        longest: Longest piece [samples].
        pause: Shortest silence [s] that ends a piece; None makes pieces as long as they may be.
        hearing: What detects speech; None is Silero VAD.

    Raises:
        WeightsError: The weights of Silero VAD are not there.
    """

    def __init__(
        self, sample_rate: int, longest: int, pause: float | None = None, hearing: Hearing | None = None
    ) -> None:
        self._rate, self._longest = sample_rate, longest
        # One as long as a piece may be ends it anyway: any longer one does the same.
        samples = None if pause is None else max(pause, _SHORTEST_SILENCE) * sample_rate
        self._pause = None if samples is None else int(min(longest, samples))
        self._hearing = hearing or SpeechDetector(sample_rate)
        around = min(int(_AROUND * sample_rate), longest // 8)
        self._around = around if self._pause is None else min(around, self._pause // 2)
        self._samples: NDArray[np.float32] = np.zeros(0, np.float32)
        self._first = 0  # number of the first sample that is held
        self._begin = 0  # where the next piece may begin: the last one's end
        self._chunks = 0  # heard so far
        self._regions: list[_Region] = []  # of the piece that is being made; the last one may still go on
        self._speaking = False
        self._quiet: int | None = None  # since when it is quiet, while that may be a part of a word

    def push(self, block: NDArray[np.float32]) -> Iterator[CutPiece]:
        """Hear (S,) samples; yield the pieces that are complete by now."""
        self._samples = np.concatenate([self._samples, block])
        yield from self._hear(self._hearing.push(block))

    def finish(self) -> Iterator[CutPiece]:
        """Yield the pieces that are left at the end."""
        yield from self._hear(self._hearing.finish())
        if self._speaking:
            self._stop(self._end if self._quiet is None else self._quiet)
        if self._regions:
            yield self._piece(self._start(), min(self._regions[-1].end + self._around, self._end))
            self._regions = []

    @property
    def unfinished(self) -> CutPiece | None:
        """What is heard so far of a piece that is not complete, at most the longest piece; None of none."""
        if not self._regions:
            return None
        start = self._start()
        return CutPiece(start, self._samples[start - self._first :][: self._longest])

    @property
    def _end(self) -> int:
        return self._first + len(self._samples)

    def _hear(self, speech: NDArray[np.float32]) -> Iterator[CutPiece]:
        for probability in speech.tolist():
            start = self._sample(self._chunks)
            self._chunks += 1
            end = min(self._sample(self._chunks), self._end)
            self._follow(probability, start, end)
            yield from self._complete(end)

    def _sample(self, chunk: int) -> int:
        return round(chunk * CHUNK_SECONDS * self._rate)

    def _follow(self, probability: float, start: int, end: int) -> None:
        """Note whether somebody speaks in the chunk of these samples."""
        if not self._speaking:
            if probability >= _SPEECH:
                self._speaking, self._quiet = True, None
                self._regions.append(_Region(start, end))
            return
        if probability >= _SPEECH:
            self._quiet = None
        elif probability < _SILENCE and self._quiet is None:
            self._quiet = start
        if self._quiet is not None and end - self._quiet >= _SHORTEST_SILENCE * self._rate:
            self._stop(self._quiet)
        else:
            self._regions[-1] = self._regions[-1]._replace(end=end)

    def _stop(self, end: int) -> None:
        self._speaking, self._quiet = False, None
        region = self._regions.pop()
        if end - region.start >= _SHORTEST_SPEECH * self._rate or region.start == self._begin > 0:
            self._regions.append(region._replace(end=end))

    def _complete(self, now: int) -> Iterator[CutPiece]:
        """Yield the pieces that are complete when so many samples were heard."""
        if self._regions and not self._speaking:
            end = self._regions[-1].end
            paused = self._pause is not None and now - end >= self._pause
            if paused or now - self._start() > self._longest:
                yield self._piece(self._start(), min(end + self._around, now))
                self._regions = []
        end = now if self._quiet is None else self._quiet
        while self._speaking and end + self._around - self._start() > self._longest:
            yield self._too_long(now)
        self._forget()

    def _start(self) -> int:
        """Return where the piece that is being made begins."""
        return max(self._begin, self._regions[0].start - self._around)

    def _too_long(self, now: int) -> CutPiece:
        """End the piece in which somebody still speaks, before all that was heard of it by now."""
        start = self._start()
        pauses = [
            (after.start - before.end, before.end, number)
            for number, (before, after) in enumerate(zip(self._regions, self._regions[1:], strict=False), 1)
        ]
        if not pauses:
            heard = self._samples[start - self._first : now - self._first]
            longest = min(self._longest, len(heard))
            cut = start + quietest(heard, longest, int(FRAME_SECONDS * self._rate))
            self._regions = [_Region(cut, now)]
            return self._piece(start, cut)
        late = [pause for pause in pauses if pause[1] - start >= self._longest // 2]
        length, end, number = max(late) if late else pauses[-1]
        self._regions = self._regions[number:]
        return self._piece(start, min(end + self._around, end + length // 2))

    def _piece(self, start: int, end: int) -> CutPiece:
        self._begin = end
        return CutPiece(start, self._samples[start - self._first : end - self._first].copy())

    def _forget(self) -> None:
        """Let go of samples that no piece can need."""
        if self._regions:
            needed = self._start()
        else:
            needed = max(self._begin, self._sample(self._chunks) - self._around)
        if needed - self._first > self._rate:
            self._samples = self._samples[needed - self._first :].copy()
            self._first = needed
