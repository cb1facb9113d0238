"""Emotion recognition as a task."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kikimimi_tasks.banks import BankConfig, BankTask
from kikimimi_tasks.labelled_clip import LabelledClip


@dataclass(kw_only=True, frozen=True)
class EmotionConfig(BankConfig):
    """Options of the task `emotion`."""

    bank_name: ClassVar[str] = "emotion"


class Emotion(BankTask[EmotionConfig]):
    """Asks how the speaker feels: ``emotion``, a label or a description."""

    name = "emotion"
    Config = EmotionConfig

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return the emotion."""
        return clip.text("emotion", what="the speaker's emotion")
