"""Written questions about a clip as a task."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kikimimi import Conversation
from kikimimi_tasks.banks import BankConfig, BankTask
from kikimimi_tasks.labelled_clip import LabelledClip


@dataclass(kw_only=True, frozen=True)
class QuestionAnsweringConfig(BankConfig):
    """Options of the task `question_answering`. With ``prompt: none`` the question stands alone."""

    bank_name: ClassVar[str] = "question_answering"
    brings_text: ClassVar[bool] = True


class QuestionAnswering(BankTask[QuestionAnsweringConfig]):
    """Asks a written question about a clip: ``question`` and ``answer``."""

    name = "question_answering"
    Config = QuestionAnsweringConfig

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return the answer."""
        return clip.text("answer", "response", what="the answer to the question")

    def written(self, clip: LabelledClip) -> str | None:
        """Return the question."""
        return clip.text("question", what="a written question")

    def question(self, language: str | None) -> Conversation:
        """Raise: what is asked stands in each record.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"task '{self.name}' has no fixed question: the records bring their own")

    def phrasings(self) -> list[str]:
        """Return what may stand before the question."""
        beside = self.config.asks and self.config.ask == "user"
        return [*super().phrasings(), *(["\n"] if beside else [])]
