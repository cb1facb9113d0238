"""What the tasks about one clip share: who says what in which order. Each adds its request and its answer."""

from abc import abstractmethod
from dataclasses import dataclass, fields
from random import Random
from typing import Any, ClassVar, Generic, Literal, TypeVar

from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi.contracts.labelled_clip import LabelledClip
from kikimimi.contracts.options import Text
from kikimimi.contracts.task import Task, TaskConfig


@dataclass(kw_only=True, frozen=True)
class ClipTaskConfig(TaskConfig):
    """How the turns about a clip are laid out."""

    order: Literal["audio_first", "text_first"] = "audio_first"
    """Whether the user's turn begins with the audio or with the text."""
    ask: Literal["user", "system"] = "user"
    """Where the request stands: in the user's turn, or in a system turn before it."""
    system: Text | None = None
    """A system turn of your own before the user's, always the same; null means none."""
    context: Text | None = None
    """Field of the record with words that help to hear, such as names or what was said before: a text, or a
    list of them. They stand in the user's turn after the request, each text on a line of its own; records
    without any are asked without. A server of the run takes such words as `prompt`. null: none are read, and
    none are taken."""

    brings_text: ClassVar[bool] = False
    """Whether each record brings a text for the user's turn, so that `order` has a meaning in any case."""
    unasked: ClassVar[str]
    """Why there is no request where there is none, for messages."""

    def __post_init__(self) -> None:
        if self.ask == "system" and self.system is not None:
            raise ValueError("system: the request is the system turn (ask: system): leave one of the two out")
        texts = self.brings_text or self.context is not None
        if self.ask == "system" and self.order != "audio_first" and not texts:
            raise ValueError("order: the audio is alone in the user's turn (ask: system): leave order out")
        how = {"language", "ask"} if texts else {"language", "order", "ask"}
        for option in fields(self):
            if not self.asks and option.name in how and getattr(self, option.name) != option.default:
                raise ValueError(
                    f"{option.name}: says how the request is put, but {self.unasked}: leave it out"
                )

    @property
    def asks(self) -> bool:
        """Whether there is a request."""
        return True


_Options = TypeVar("_Options", bound=ClipTaskConfig)


class ClipTask(Task, Generic[_Options]):
    """Makes ``[system, user: audio and request, assistant: answer]`` of a labelled clip."""

    name: ClassVar[str]
    """Name of the task, for messages."""
    config: _Options

    @property
    def joint(self) -> str:
        """What stands between the words of the clip and the request where both are read in writing."""
        return "\n"

    @abstractmethod
    def request(self, language: str | None, clip: LabelledClip | None, rng: Random | None) -> str | None:
        """Return what is asked, or None where the audio stands alone.

        Args:
            language: ISO 639-1 code of the clip, if known.
            clip: The clip; None for the task's fixed question.
            rng: Chooses among phrasings; None takes the first.

        Raises:
            ValueError: Nothing can be asked in this language, or without a clip.
        """

    @abstractmethod
    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return what the assistant answers.

        Raises:
            ValueError: The record lacks it.
        """

    def said(self, clip: LabelledClip) -> str | None:
        """Return what is said in the clip, where that is known."""
        return clip.optional_text("text")

    def context(self, clip: LabelledClip) -> str | None:
        """Return the words that help to hear a clip; None where there are none."""
        field = self.config.context
        if field is None or clip.find(field)[1] in (None, "", []):
            return None
        return "\n".join(clip.texts(field, what="words that help"))

    def written(self, clip: LabelledClip) -> str | None:
        """Return the text that the record brings for the user's turn; None where it brings none."""
        return None

    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        """Build ``[user: audio and request, assistant: answer]``.

        Args:
            record: A labelled clip; ``meta`` is kept.
            clips: The record's one clip.
            rng: Chooses the phrasing of the request; None takes the first of the language.

        Raises:
            ValueError: The record is no labelled clip, lacks what is needed, or nothing is asked in its
                language.
        """
        clip = LabelledClip.read(self.name, record, clips)
        request = self.request(clip.language, clip, rng)
        answer = Message("assistant", (TextPart(self.answer(clip, rng)),))
        audio = AudioPart(clip.audio, self.said(clip), self.joint)
        turns = self._turns(audio, request, self.context(clip), self.written(clip))
        return Conversation((*turns, answer), None, clip.meta)

    def question(self, language: str | None) -> Conversation:
        """Return the request about the clip ``0``, in its first phrasing.

        Args:
            language: ISO 639-1 code of the clip; None leaves the choice to the task.

        Raises:
            ValueError: Nothing can be asked in this language, or what is asked depends on the record.
        """
        return Conversation(self._turns(AudioPart("0"), self.request(language, None, None)))

    def question_in_context(self, language: str | None, context: str) -> Conversation:
        """Return the request about the clip ``0``, in its first phrasing, and words that help.

        Args:
            language: ISO 639-1 code of the clip; None leaves the choice to the task.
            context: The words, which stand where the option `context` puts those of a record.

        Raises:
            ValueError: The task has no option `context`, or nothing can be asked.
        """
        if self.config.context is None:
            return super().question_in_context(language, context)
        self.question(language)  # there has to be one
        return Conversation(self._turns(AudioPart("0"), self.request(language, None, None), context))

    def phrasings(self) -> list[str]:
        """Return the fixed texts; a subclass adds its own."""
        system = [] if self.config.system is None else [self.config.system]
        return system if self.config.context is None else [*system, "\n"]

    def _turns(self, audio: AudioPart, request: str | None, *written: str | None) -> tuple[Message, ...]:
        system, beside = self.config.system, request
        if self.config.ask == "system":
            system, beside = request, None
        text = "\n".join(text for text in (beside, *written) if text is not None)
        parts: tuple[AudioPart | TextPart, ...] = (audio, TextPart(text)) if text else (audio,)
        if self.config.order == "text_first":
            parts = parts[::-1]
        first = () if system is None else (Message("system", (TextPart(system),)),)
        return (*first, Message("user", parts))
