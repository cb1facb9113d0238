"""Speech recognition as a task: a labelled clip becomes a request for its transcript, and the transcript."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kikimimi_tasks.banks import BankConfig, BankTask
from kikimimi_tasks.labelled_clip import LabelledClip


@dataclass(kw_only=True, frozen=True)
class ASRConfig(BankConfig):
    """Options of the task `asr`."""

    bank_name: ClassVar[str] = "asr"


class ASR(BankTask[ASRConfig]):
    """Asks for the transcript of a clip: ``{"text": ..., "language": ...}`` and one audio member."""

    name = "asr"
    Config = ASRConfig
    transcribes = True

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return the transcript."""
        return clip.text("text", what="the transcript")
