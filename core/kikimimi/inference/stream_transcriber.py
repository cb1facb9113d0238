"""Transcription of speech while it is spoken: a text that grows, and then stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kikimimi.inference.cutting import UNBOUNDED_SECONDS, CutPiece
from kikimimi.inference.speech_cutter import Hearing, SpeechCutter
from kikimimi.inference.transcript import TextSegment

STREAM_PAUSE = 0.5
"""Silence that ends a segment, where nothing else is asked for [s]."""
STREAM_STEP = 1.0
"""How much is spoken until an unfinished segment is transcribed anew, where nothing else is asked for [s]."""


class StreamText(NamedTuple):
    """What was heard in a segment so far.

    Attributes:
        segment: The segment; while it is spoken, its end moves on and its text may change.
        final: Whether it stays so.
    """

    segment: TextSegment
    final: bool


class StreamTranscriber:
    """Transcribes what comes in blocks: from a growing file, a microphone, a socket.

    A segment ends where nobody speaks for a while, and its text is final then. What is spoken meanwhile is
    transcribed anew again and again, from the segment's beginning.

    Args:
        transcribe: Returns the text of a clip, (S,) mono float32 at `sample_rate`.
        sample_rate: Sampling rate of the blocks [Hz].
        max_seconds: Longest segment [s]; None stands for `UNBOUNDED_SECONDS`.
        pause: Shortest silence that ends a segment [s].
        step: How much is spoken until an unfinished segment is transcribed anew [s]; None leaves that out.
        hearing: What detects speech; None is Silero VAD.

    Raises:
        WeightsError: The weights of Silero VAD are not there.
    """

    def __init__(
        self,
        transcribe: Callable[[NDArray[np.float32]], str],
        *,
        sample_rate: int,
        max_seconds: float | None,
        pause: float = STREAM_PAUSE,
        step: float | None = STREAM_STEP,
        hearing: Hearing | None = None,
    ) -> None:
        longest = int((UNBOUNDED_SECONDS if max_seconds is None else max_seconds) * sample_rate)
        self._transcribe, self._rate = transcribe, sample_rate
        self._step = None if step is None else max(1, int(step * sample_rate))
        self._cutter = SpeechCutter(sample_rate, longest, pause, hearing)
        self._heard = 0  # samples of the recording that an unfinished text is of

    def push(self, block: NDArray[np.float32]) -> Iterator[StreamText]:
        """Hear (S,) samples; yield the segments that ended, and then one text at most that is unfinished."""
        for piece in self._cutter.push(block):
            yield self._text(piece, final=True)
        unfinished = self._cutter.unfinished
        if self._step is None or unfinished is None:
            return
        if unfinished.end - max(self._heard, unfinished.start) >= self._step:
            self._heard = unfinished.end
            yield self._text(unfinished, final=False)

    def finish(self) -> Iterator[StreamText]:
        """Yield what is left at the end."""
        for piece in self._cutter.finish():
            yield self._text(piece, final=True)

    def _text(self, piece: CutPiece, *, final: bool) -> StreamText:
        text = self._transcribe(piece.samples)
        return StreamText(TextSegment(piece.start / self._rate, piece.end / self._rate, text), final)
