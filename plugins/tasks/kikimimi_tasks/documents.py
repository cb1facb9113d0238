"""Documents: consecutive segments of one recording or talk, in the field ``segments`` of a record.

    {"segments": [{"audio": "0.flac", "text": "..."}, {"audio": "1.flac", "text": "..."}], "language": "ja"}

A segment may also say when it is spoken, ``start`` and ``end`` in seconds of the one clip that holds it.
The tasks are the patterns of Voxtral's pre-training (arXiv 2507.13264).
"""

from dataclasses import dataclass
from random import Random
from typing import Any

from kikimimi import (
    AudioPart,
    Conversation,
    LabelledClip,
    Message,
    Task,
    TaskConfig,
    Text,
    TextPart,
    check_text,
    is_number,
    listing,
    missing_field,
    nearest,
    read_meta,
)


@dataclass(frozen=True)
class TimedText:
    """A stretch of a document.

    Attributes:
        where: Its place in the record, for messages.
        text: What is said in it.
        audio: Name of its clip, or None where the record does not say.
        start: When it begins [s], or None where the record does not say.
        end: When it ends [s], or None.
    """

    where: str
    text: str
    audio: str | None
    start: float | None
    end: float | None

    def heard(self, task: str) -> AudioPart:
        """Return the segment as the model hears it.

        Raises:
            ValueError: The record names no clip for it.
        """
        if self.audio is None:
            raise ValueError(f"{self.where}.audio: task '{task}' needs the name of the segment's clip")
        return AudioPart(self.audio, self.text)


def read_segments(task: str, record: dict[str, Any], clips: list[str]) -> list[TimedText]:
    """Read the segments of a document.

    Args:
        task: Name of the task that needs them, for messages.
        record: The record's JSON.
        clips: The record's audio members; a segment names one in full (``0.flac``) or by number (``0``).

    Raises:
        ValueError: There are none, or one is malformed; the message names the place.
    """
    if "messages" in record:
        raise ValueError(f"messages: task '{task}' makes the turns itself: use task 'chat'")
    found = record.get("segments")
    if found is None:
        raise missing_field(task, record, "segments", "a list of segments")
    if not isinstance(found, list) or not found:
        raise ValueError("segments: expected a list of at least one segment")
    return [_segment(item, f"segments[{i}]", clips) for i, item in enumerate(found)]


def _segment(item: Any, where: str, clips: list[str]) -> TimedText:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: expected a mapping with text and audio")
    audio = item.get("audio")
    return TimedText(
        where,
        check_text(item.get("text"), f"{where}.text"),
        None if audio is None else _clip(audio, f"{where}.audio", clips),
        _time(item, "start", where),
        _time(item, "end", where),
    )


def _clip(name: Any, where: str, clips: list[str]) -> str:
    for clip in clips:
        if name in (clip, clip.partition(".")[0]):
            return clip
    raise ValueError(
        f"{where}: the record has no clip {name!r}.{nearest(str(name), clips)} Clips: {listing(clips)}"
    )


def _time(item: dict[str, Any], name: str, where: str) -> float | None:
    value = item.get(name)
    if value is None:
        return None
    if not is_number(value) or not 0 <= value < float("inf"):
        raise ValueError(f"{where}.{name}: expected a number of seconds, not {value!r}")
    return float(value)


@dataclass(kw_only=True, frozen=True)
class MarkedConfig(TaskConfig):
    """A mark after the audio, which tells one pattern from the other."""

    mark: Text = "<mark>"
    """Text after the audio. It is spelled in ordinary tokens."""


class MarkedTask(Task):
    """Turns of the user that are audio and a mark."""

    config: MarkedConfig

    def question(self, language: str | None) -> Conversation:
        """Return the clip ``0`` with the mark after it, in any language."""
        return Conversation((self.user(AudioPart("0")),))

    def phrasings(self) -> list[str]:
        """Return the mark."""
        return [self.config.mark]

    def user(self, audio: AudioPart) -> Message:
        """Return the turn about a clip."""
        return Message("user", (audio, TextPart(self.config.mark)))


@dataclass(kw_only=True, frozen=True)
class RepetitionConfig(MarkedConfig):
    """Options of the task `repetition`."""

    mark: Text = "<repeat>"
    """Text after the audio that says that its own text follows. It is spelled in ordinary tokens."""


class Repetition(MarkedTask):
    """A segment's audio, answered by its text: a clip and its ``text``, or one of ``segments``.

    Each pair stands alone, without the segments before it (arXiv 2507.13264, section 3.1). Of a document one
    segment is drawn in each pass; pack segments as clips of their own to hear all of them equally often.
    """

    Config = RepetitionConfig
    transcribes = True

    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        """Build ``[user: A <repeat>, assistant: T]``.

        Args:
            record: A document (``segments``) or a labelled clip (``text``).
            clips: Its clips.
            rng: Draws the segment; None takes the first.

        Raises:
            ValueError: The record is neither, or malformed.
        """
        if record.get("segments") is None:
            clip = LabelledClip.read("repetition", record, clips)
            text = clip.text("text", "segments", what="a transcript")
            audio = AudioPart(clip.audio, text)
        else:
            segments = read_segments("repetition", record, clips)
            segment = segments[0] if rng is None else rng.choice(segments)
            audio, text = segment.heard("repetition"), segment.text
        answer = Message("assistant", (TextPart(text),))
        return Conversation((self.user(audio), answer), None, read_meta(record))


@dataclass(kw_only=True, frozen=True)
class ContinuationConfig(MarkedConfig):
    """Options of the task `continuation`."""

    mark: Text = "<next>"
    """Text after the audio that says that the text of what follows it comes next. It is spelled in ordinary
    tokens."""


class Continuation(MarkedTask):
    """A document heard and written in turn: ``segments``, of which the first is heard, the second written,
    and so on; the last answer of an odd number is two segments long.
    """

    Config = ContinuationConfig

    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        """Build ``[user: A1 <next>, assistant: T2, user: A3 <next>, assistant: T4, ...]``.

        Args:
            record: A document; segments that are only written need no clip.
            clips: Its clips.
            rng: Not used: nothing is chosen.

        Raises:
            ValueError: The record is no document, has one segment alone, or is malformed.
        """
        segments = read_segments("continuation", record, clips)
        if len(segments) < 2:
            raise ValueError("segments: task 'continuation' needs at least two; the record has 1")
        answers = [[segment.text] for segment in segments[1::2]]
        if len(segments) % 2:
            answers[-1].append(segments[-1].text)
        turns: list[Message] = []
        for heard, texts in zip(segments[: 2 * len(answers) : 2], answers, strict=True):
            turns += [
                self.user(heard.heard("continuation")),
                Message("assistant", (TextPart("\n".join(texts)),)),
            ]
        return Conversation(tuple(turns), None, read_meta(record))

    def phrasings(self) -> list[str]:
        """Return the mark, and what joins two segments."""
        return [*super().phrasings(), "\n"]
