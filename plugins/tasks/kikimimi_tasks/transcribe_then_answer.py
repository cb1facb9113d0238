"""Spoken instructions that are written down before they are answered."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kikimimi_tasks.banks import BankConfig, BankTask
from kikimimi_tasks.labelled_clip import LabelledClip


@dataclass(kw_only=True, frozen=True)
class TranscribeThenAnswerConfig(BankConfig):
    """Options of the task `transcribe_then_answer`."""

    transcript_heading: str = "### Transcript:"
    """Line before the transcript."""
    response_heading: str = "### Response:"
    """Line before the answer."""

    bank_name: ClassVar[str] = "transcribe_then_answer"

    def __post_init__(self) -> None:
        for option in ("transcript_heading", "response_heading"):
            if not getattr(self, option).strip():
                raise ValueError(f"{option}: is empty: transcript and answer could not be told apart")
        if self.transcript_heading == self.response_heading:
            raise ValueError("response_heading: is the transcript's too: the two could not be told apart")
        super().__post_init__()


class TranscribeThenAnswer(BankTask[TranscribeThenAnswerConfig]):
    """Writes down what is said in the clip and answers it: ``text``, and ``answer`` or ``response``."""

    name = "transcribe_then_answer"
    Config = TranscribeThenAnswerConfig

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return transcript and answer, each under its heading."""
        before, between = self._headings()
        transcript = clip.text("text", what="the transcript of the spoken instruction")
        answer = clip.text("answer", "response", what="the answer to the spoken instruction")
        return f"{before}{transcript}{between}{answer}"

    def phrasings(self) -> list[str]:
        """Return the requests and the headings."""
        return [*super().phrasings(), *self._headings()]

    def _headings(self) -> tuple[str, str]:
        return f"{self.config.transcript_heading}\n", f"\n\n{self.config.response_heading}\n"
