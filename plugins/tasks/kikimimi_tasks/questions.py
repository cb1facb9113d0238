"""Tasks that answer what a clip asks, or what is asked about it in its record."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kikimimi import BankConfig, BankTask, Conversation, LabelledClip, Text


@dataclass(kw_only=True, frozen=True)
class TranscribeThenAnswerConfig(BankConfig):
    """Options of the task `transcribe_then_answer`."""

    transcript_heading: Text = "### Transcript:"
    """Line before the transcript."""
    response_heading: Text = "### Response:"
    """Line before the answer."""

    def __post_init__(self) -> None:
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


@dataclass(kw_only=True, frozen=True)
class QuestionAnsweringConfig(BankConfig):
    """Options of the task `question_answering`. With ``prompt: none`` the question stands alone."""

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
        beside = self.config.asks and self.config.ask == "user" and self.config.context is None
        return [*super().phrasings(), *(["\n"] if beside else [])]
