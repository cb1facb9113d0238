"""Spoken instructions as a task: the audio is what is asked."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kikimimi_tasks.banks import BankConfig, BankTask
from kikimimi_tasks.labelled_clip import LabelledClip


@dataclass(kw_only=True, frozen=True)
class SpokenInstructionConfig(BankConfig):
    """Options of the task `spoken_instruction`."""

    bank_name: ClassVar[str] = "spoken_instruction"


class SpokenInstruction(BankTask[SpokenInstructionConfig]):
    """Answers what is said in the clip: ``answer`` or ``response``; ``text`` is the instruction, if known."""

    name = "spoken_instruction"
    Config = SpokenInstructionConfig

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return the answer."""
        return clip.text("answer", "response", what="the answer to the spoken instruction")
