"""Transcription with a trained run: any clip, of any length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kikimimi.contracts.answer import Answer
from kikimimi.data.audio import decode_blocks, is_silent
from kikimimi.errors import RequestError
from kikimimi.inference.alignment import NO_HEAD, times_words, word_times
from kikimimi.inference.cutting import CutPiece
from kikimimi.inference.engine import BATCH_SIZE, Prompt
from kikimimi.inference.fixed_tasks import fixed_question, fixed_task, hears_language
from kikimimi.inference.load import open_engine
from kikimimi.inference.recording import Cut, cut_recording
from kikimimi.inference.transcript import TextSegment, TimedWord, Transcript
from kikimimi.run.folder import RunFolder

_ON_CPU = 2
"""Pieces of a file that are transcribed together on a CPU: more take its memory, and are no faster."""


class Transcriber:
    """A run's model, asking what its evaluation or the last training stage with a fixed question asks.

    Attributes:
        hears_language: Whether it is asked the same in every language, and so cannot be told the clip's.
        usual_cut: Where a recording is cut if nothing else is asked for: at silence where the task is to
            transcribe, and else in the quietest place, which leaves nothing out.
    """

    def __init__(self, run: RunFolder, device: torch.device | None = None) -> None:
        self.task = fixed_task(run)
        self.hears_language = hears_language(self.task)
        self.usual_cut: Cut = "silence" if self.task.transcribes else "quietest"
        self.engine, self.generation = open_engine(run, device)
        self.sample_rate = self.engine.sample_rate
        self.max_seconds = self.engine.max_seconds
        self._together = _ON_CPU if self.engine.device.type == "cpu" else BATCH_SIZE

    @classmethod
    def open(cls, run: Path) -> Transcriber:
        """Load a run folder.

        Raises:
            RunError: It is not one, or holds no trained weights.
        """
        return cls(RunFolder.open(run))

    def transcribe(
        self, clips: Sequence[NDArray[np.float32]], language: str | None = None, context: str | None = None
    ) -> list[Answer]:
        """Transcribe clips, each at most the encoder's window long.

        Args:
            clips: (S,) mono float32 at `sample_rate`.
            language: ISO 639-1 code, or None for the task's own choice.
            context: Words that help to hear them, such as names, for a task with the option `context`.

        Returns:
            What was heard in each, without what the LLM may think before.

        Raises:
            RequestError: The task is not asked in this language, or in none, or takes no words.
            DataError: A clip is longer than the encoder's window or the LLM's context.
        """
        question = fixed_question(self.task, language, context)
        names = [f"clip {number}" if len(clips) > 1 else "" for number in range(len(clips))]
        prompts = [
            Prompt(name, question, [torch.from_numpy(clip)]) for name, clip in zip(names, clips, strict=True)
        ]
        return [answer.spoken for answer in self.engine.answer(prompts, self.generation)]

    def transcribe_file(
        self,
        path: Path,
        language: str | None = None,
        *,
        cut: Cut | None = None,
        pause: float | None = None,
        words: bool = False,
        context: str | None = None,
    ) -> Transcript:
        """Transcribe an audio file of any length, of which no more than some windows are held at a time.

        Args:
            path: The audio file.
            language: ISO 639-1 code, or None for the task's own choice.
            cut: Where a file is cut that is longer than the encoder's window; None is at silence where a
                pause is given, and else `usual_cut`.
            pause: Shortest silence [s] that ends a segment; None makes segments as long as they may be.
            words: Whether the words of segments have times, which needs an adapter with a CTC head.
            context: Words that help to hear it, as `transcribe` has them; each piece is asked with all.

        Raises:
            RequestError: No file is there, or the task is not asked in this language, or in none, or takes no
                words; there is no CTC head for times of words.
            DataError: It cannot be decoded, or a piece of it does not fit into the LLM's context.
        """
        samples = 0

        def counted(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
            nonlocal samples
            for block in blocks:
                samples += len(block)
                yield block

        blocks = counted(decode_blocks(path, sample_rate=self.sample_rate, name=str(path)))
        segments = tuple(
            self.segments(self.pieces(blocks, cut=cut, pause=pause), language, words=words, context=context)
        )
        return Transcript(segments, samples / self.sample_rate)

    def pieces(
        self, blocks: Iterable[NDArray[np.float32]], *, cut: Cut | None = None, pause: float | None = None
    ) -> Iterator[CutPiece]:
        """Cut a recording that comes in blocks of (S,) samples into pieces that the encoder takes.

        Args:
            blocks: (S,) mono float32 at `sample_rate`, end to end.
            cut: Where it is cut, as `transcribe_file` has it.
            pause: Shortest silence [s] that ends a piece, where it is cut at silence.

        Yields:
            The pieces, in order; no two overlap.
        """
        cut = cut or (self.usual_cut if pause is None else "silence")
        yield from cut_recording(
            blocks, sample_rate=self.sample_rate, max_seconds=self.max_seconds, cut=cut, pause=pause
        )

    def segments(
        self,
        pieces: Iterable[CutPiece],
        language: str | None = None,
        *,
        words: bool = False,
        context: str | None = None,
    ) -> Iterator[TextSegment]:
        """Transcribe pieces of a recording, some at a time; silent ones are left out.

        Args:
            pieces: Pieces of at most the encoder's window.
            language: ISO 639-1 code, or None for the task's own choice.
            words: Whether their words have times, too.
            context: Words that help to hear them, as `transcribe` has them.

        Yields:
            The segments, as soon as they are heard.

        Raises:
            RequestError: The task is not asked in this language, or in none, or takes no words; there is no
                CTC head for times of words.
            DataError: A piece does not fit into the encoder's window or the LLM's context.
        """
        if words and not times_words(self.engine):
            raise RequestError(NO_HEAD)
        heard = (piece for piece in pieces if not is_silent(piece.samples))
        while together := list(islice(heard, self._together)):
            texts = self.transcribe([piece.samples for piece in together], language, context)
            for piece, text in zip(together, texts, strict=True):
                start, end = piece.start / self.sample_rate, piece.end / self.sample_rate
                timed = self._words(piece, text) if words else ()
                yield TextSegment(start, end, text, timed)

    def _words(self, piece: CutPiece, text: str) -> tuple[TimedWord, ...]:
        at, found = piece.start / self.sample_rate, word_times(self.engine, piece.samples, text)
        return tuple(word.after(at) for word in found)
