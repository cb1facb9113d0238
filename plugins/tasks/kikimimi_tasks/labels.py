"""Tasks that ask for what a clip is labelled with: the answer is a field of its record."""

from dataclasses import dataclass
from random import Random
from typing import Annotated, ClassVar

from annotated_types import MinLen

from kikimimi import BankConfig, BankTask, LabelledClip


class FieldTask(BankTask[BankConfig]):
    """Answers with the text of a field."""

    Config = BankConfig
    fields: ClassVar[tuple[str, ...]]
    """Where in the record the text is, in order of preference."""
    what: ClassVar[str]
    """What it is, for messages."""

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return the text."""
        return clip.text(*self.fields, what=self.what)


class ASR(FieldTask):
    """Asks for the transcript of a clip: ``{"text": ..., "language": ...}`` and one audio member."""

    name = "asr"
    fields = ("text",)
    what = "the transcript"
    transcribes = True


class Emotion(FieldTask):
    """Asks how the speaker feels: ``emotion``, a label or a description."""

    name = "emotion"
    fields = ("emotion",)
    what = "the speaker's emotion"


class MusicTitle(FieldTask):
    """Asks for a title of a piece of music: ``title``."""

    name = "music_title"
    fields = ("title",)
    what = "the title of the music"
    speech = False


class SpokenInstruction(FieldTask):
    """Answers what is said in the clip: ``answer`` or ``response``; ``text`` is the instruction, if known."""

    name = "spoken_instruction"
    fields = ("answer", "response")
    what = "the answer to the spoken instruction"


def caption(clip: LabelledClip, rng: Random | None) -> str:
    """Return one of a record's captions; without `rng` the first.

    Raises:
        ValueError: It has none.
    """
    captions = clip.texts("captions", "caption", "text", what="a caption")
    return captions[0] if rng is None else rng.choice(captions)


class Caption(BankTask[BankConfig]):
    """Asks what there is to hear: ``captions``, a list of which one is drawn, or ``caption``, or ``text``."""

    name = "caption"
    Config = BankConfig
    speech = False

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return a caption."""
        return caption(clip, rng)


@dataclass(kw_only=True, frozen=True)
class ListConfig(BankConfig):
    """A request whose answer is a list."""

    separator: Annotated[str, MinLen(1)] = ", "
    """What stands between the items of the answer."""


class ListTask(BankTask[ListConfig]):
    """Answers with the items of a field, which is a list, or one text or number alone."""

    Config = ListConfig
    field: ClassVar[str]
    """Where in the record the items are."""
    what: ClassVar[str]
    """What they are, for messages."""

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return the items."""
        return self.config.separator.join(clip.texts(self.field, what=self.what))

    def phrasings(self) -> list[str]:
        """Return the requests and the separator."""
        return [*super().phrasings(), self.config.separator]


class Keywords(ListTask):
    """Asks for the keywords of what is said: ``keywords``, a list or one text."""

    name = field = "keywords"
    what = "the keywords"


class Speakers(ListTask):
    """Asks who speaks: ``speakers``, a list of names or descriptions, one text, or their number."""

    name = field = "speakers"
    what = "the speakers"


class AudioEvents(ListTask):
    """Asks which sounds follow each other: ``events``, a list in order, or one text."""

    name = "audio_events"
    field = "events"
    what = "the sound events"
    speech = False
