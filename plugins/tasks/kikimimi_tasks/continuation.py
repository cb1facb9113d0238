"""The continuation pattern of Voxtral's pre-training (arXiv 2507.13264): audio, then the text after it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from kikimimi import AudioPart, Conversation, Message, Task, TaskConfig, TextPart
from kikimimi_tasks.labelled_clip import read_meta
from kikimimi_tasks.segments import read_segments


@dataclass(kw_only=True, frozen=True)
class ContinuationConfig(TaskConfig):
    """Options of the task `continuation`."""

    mark: str = "<next>"
    """Text after the audio that says that the text of what follows it comes next. It is spelled in ordinary
    tokens."""

    def __post_init__(self) -> None:
        if not self.mark.strip():
            raise ValueError("mark: is empty: repetition and continuation could not be told apart")


class Continuation(Task):
    """A document heard and written in turn: ``segments``, of which the first is heard, the second written,
    and so on; the last answer of an odd number is two segments long.
    """

    Config = ContinuationConfig
    config: ContinuationConfig

    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        """Build ``[user: A1 <next>, assistant: T2, user: A3 <next>, assistant: T4, ...]``.

        Args:
            record: A document; segments that are only written need no clip.
            clips: Its clips.
            rng: Not used: nothing is chosen.

        Raises:
            ValueError: The record is no document, has one segment alone, or is malformed.
        """
        segments = read_segments("continuation", record, clips)
        if len(segments) < 2:
            raise ValueError("segments: task 'continuation' needs at least two; the record has 1")
        answers = [[segment.text] for segment in segments[1::2]]
        if len(segments) % 2:
            answers[-1].append(segments[-1].text)
        turns: list[Message] = []
        for heard, texts in zip(segments[: 2 * len(answers) : 2], answers, strict=True):
            turns += [
                self._user(heard.heard("continuation")),
                Message("assistant", (TextPart("\n".join(texts)),)),
            ]
        return Conversation(tuple(turns), None, read_meta(record))

    def question(self, language: str | None) -> Conversation:
        """Return the clip ``0`` with the mark after it, in any language."""
        return Conversation((self._user(AudioPart("0")),))

    def phrasings(self) -> list[str]:
        """Return the mark, and what joins two segments."""
        return [self.config.mark, "\n"]

    def _user(self, audio: AudioPart) -> Message:
        return Message("user", (audio, TextPart(self.config.mark)))
