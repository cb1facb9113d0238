"""The repetition pattern of Voxtral's pre-training (arXiv 2507.13264): audio, then its own text."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from kikimimi import AudioPart, Conversation, Message, Task, TaskConfig, TextPart
from kikimimi_tasks.labelled_clip import LabelledClip, read_meta
from kikimimi_tasks.segments import read_segments


@dataclass(kw_only=True, frozen=True)
class RepetitionConfig(TaskConfig):
    """Options of the task `repetition`."""

    mark: str = "<repeat>"
    """Text after the audio that says that its own text follows. It is spelled in ordinary tokens."""

    def __post_init__(self) -> None:
        if not self.mark.strip():
            raise ValueError("mark: is empty: repetition and continuation could not be told apart")


class Repetition(Task):
    """Each segment's audio, answered by its text: ``segments``, or a clip and its ``text``."""

    Config = RepetitionConfig
    transcribes = True
    config: RepetitionConfig

    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        """Build ``[user: A1 <repeat>, assistant: T1, user: A2 <repeat>, assistant: T2, ...]``.

        Args:
            record: A document (``segments``) or a labelled clip (``text``).
            clips: Its clips.
            rng: Not used: nothing is chosen.

        Raises:
            ValueError: The record is neither, or malformed.
        """
        if record.get("segments") is None:
            clip = LabelledClip.read("repetition", record, clips)
            text = clip.text("text", "segments", what="a transcript")
            pairs = [(AudioPart(clip.audio, text), text)]
        else:
            segments = read_segments("repetition", record, clips)
            pairs = [(segment.heard("repetition"), segment.text) for segment in segments]
        turns: list[Message] = []
        for audio, text in pairs:
            turns += [self._user(audio), Message("assistant", (TextPart(text),))]
        return Conversation(tuple(turns), None, read_meta(record))

    def question(self, language: str | None) -> Conversation:
        """Return the clip ``0`` with the mark after it, in any language."""
        return Conversation((self._user(AudioPart("0")),))

    def phrasings(self) -> list[str]:
        """Return the mark."""
        return [self.config.mark]

    def _user(self, audio: AudioPart) -> Message:
        return Message("user", (audio, TextPart(self.config.mark)))
