"""Transcription with a trained run: any clip, of any length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from kikimimi.contracts.answer import Answer
from kikimimi.data.audio import decode_blocks, is_silent
from kikimimi.errors import RequestError
from kikimimi.inference.engine import BATCH_SIZE, Prompt
from kikimimi.inference.fixed_tasks import fixed_tasks
from kikimimi.inference.load import open_engine
from kikimimi.inference.transcript import TextSegment, Transcript
from kikimimi.run.folder import RunFolder

if TYPE_CHECKING:
    from kikimimi.contracts.task import Task

FRAME_SECONDS = 0.1
"""Length of the frames whose loudness decides where a long clip is cut [s]."""
SEARCH_SHARE = 0.25
"""Share of a window, at its end, in which the quietest place is looked for."""


_ON_CPU = 2
"""Pieces of a file that are transcribed together on a CPU: more take its memory, and are no faster."""


class Transcriber:
    """A run's model, asking what its evaluation or the last training stage with a fixed question asks."""

    def __init__(self, run: RunFolder, device: torch.device | None = None) -> None:
        self.task = _task(run)
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

    def transcribe(self, clips: Sequence[NDArray[np.float32]], language: str | None = None) -> list[Answer]:
        """Transcribe clips, each at most the encoder's window long.

        Args:
            clips: (S,) mono float32 at `sample_rate`.
            language: ISO 639-1 code, or None for the task's own choice.

        Returns:
            What was heard in each, without what the LLM may think before.

        Raises:
            RequestError: The task has no fixed question, or none in this language.
            DataError: A clip is longer than the encoder's window or the LLM's context.
        """
        try:
            question = self.task.question(language)
        except ValueError as error:
            raise RequestError(str(error)) from error
        names = [f"clip {number}" if len(clips) > 1 else "" for number in range(len(clips))]
        prompts = [
            Prompt(name, question, [torch.from_numpy(clip)]) for name, clip in zip(names, clips, strict=True)
        ]
        return [answer.spoken for answer in self.engine.answer(prompts, self.generation)]

    def transcribe_file(self, path: Path, language: str | None = None) -> Transcript:
        """Transcribe an audio file of any length, of which no more than some windows are held at a time.

        Args:
            path: The audio file.
            language: ISO 639-1 code, or None for the task's own choice.

        Raises:
            RequestError: No file is there, or the task has no fixed question, or none in this language.
            DataError: It cannot be decoded, or a piece of it does not fit into the LLM's context.
        """
        blocks = decode_blocks(path, sample_rate=self.sample_rate, name=str(path))
        if self.max_seconds is None:
            blocks = iter([np.concatenate(list(blocks))])
        samples = 0
        segments: list[TextSegment] = []
        heard: list[tuple[int, NDArray[np.float32]]] = []
        for piece in self._cut(blocks):
            if not is_silent(piece):
                heard.append((samples, piece))
            samples += len(piece)
            if len(heard) == self._together:
                segments += self._segments(heard, language)
                heard = []
        segments += self._segments(heard, language) if heard else []
        return Transcript(tuple(segments), samples / self.sample_rate)

    def _segments(
        self, heard: Sequence[tuple[int, NDArray[np.float32]]], language: str | None
    ) -> list[TextSegment]:
        """Transcribe pieces that begin at these samples of a file."""
        texts = self.transcribe([piece for _, piece in heard], language)
        return [
            TextSegment(start / self.sample_rate, (start + len(piece)) / self.sample_rate, text)
            for (start, piece), text in zip(heard, texts, strict=True)
        ]

    def pieces(self, clip: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Cut a clip that is longer than the encoder's window at quiet places; nothing is left out."""
        return list(self._cut([clip]))

    def _cut(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        if self.max_seconds is None:
            yield from blocks
            return
        longest, frame = int(self.max_seconds * self.sample_rate), int(FRAME_SECONDS * self.sample_rate)
        yield from cut_blocks(blocks, longest, frame)


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
    first = int(longest * (1 - SEARCH_SHARE))
    frame = min(frame, longest - first)
    held: list[NDArray[np.float32]] = []
    length = 0
    for block in blocks:
        held.append(block)
        length += len(block)
        if length <= longest:
            continue
        clip = np.concatenate(held) if len(held) > 1 else held[0]
        while len(clip) > longest:
            frames = clip[first:longest][: (longest - first) // frame * frame].reshape(-1, frame)
            quietest = int(np.argmin(np.square(frames).mean(axis=1)))
            cut = first + quietest * frame + frame // 2
            yield clip[:cut]
            clip = clip[cut:]
        held, length = [clip], len(clip)
    if held:
        yield np.concatenate(held) if len(held) > 1 else held[0]


def _task(run: RunFolder) -> Task:
    for task in fixed_tasks(run):
        return task
    raise RequestError(
        f"{run.path}: none of its tasks asks a fixed question of a clip, as transcription does"
    )
