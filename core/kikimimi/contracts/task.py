"""The contract of a task: what turns a record into the conversation that the model is trained on."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from kikimimi.contracts.conversation import Conversation
from kikimimi.contracts.options import Options


@dataclass(kw_only=True, frozen=True)
class TaskConfig(Options):
    """Base of every task's nested `Config`."""


class Task(ABC):
    """Turns a record's JSON into a conversation. Built as `Task(config)`; cheap, without torch."""

    Config: ClassVar[type[TaskConfig]]
    transcribes: ClassVar[bool] = False
    """Whether the answer is what is said in the clip, so that `kikimimi transcribe` may ask it."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        """Build the conversation.

        Args:
            record: The record's JSON. What is known of a clip stands at its top level or in ``meta``, where
                packing keeps what a corpus says besides text and language.
            clips: Names of the record's audio members in order (``0.flac``, ...).
            rng: Chooses among phrasings; a function of seed, epoch and record. None chooses the first,
                as evaluation does.

        Raises:
            ValueError: The record lacks what this task needs; the message names the field.
        """

    @property
    def translates_into(self) -> str | None:
        """ISO 639 code of the language into which the answer translates what is said; None where it does
        not. What else the answer holds, `translated` leaves out.
        """
        return None

    def translated(self, answer: str) -> str:
        """Return the translation in an answer of a task that has `translates_into`: all of it, by default."""
        return answer

    def example(self) -> tuple[dict[str, Any], list[str]] | None:
        """Return a record that this task takes, and the names of its clips, for the checks of plugins.

        None, the default, leaves it to the checks: they try a labelled clip that has what built-in tasks
        read (``text``, ``language``, ``answer`` and so on), and a conversation.
        """
        return None

    def phrasings(self) -> list[str]:
        """Return every fixed text that `conversation` may add to a record's own: the prompt bank."""
        return []

    @abstractmethod
    def question(self, language: str | None) -> Conversation:
        """Return the conversation that asks this task of one clip called ``0``, for transcription and chat.

        Raises:
            ValueError: The task has no fixed question.
        """

    def question_in_context(self, language: str | None, context: str) -> Conversation:
        """Return `question` with words beside the clip that help to hear it: names, or what was said before.

        Raises:
            ValueError: The task takes none, as by default, or has no fixed question.
        """
        raise ValueError("this model was not trained on words that help to hear (option 'context' of a task)")
