"""A document: consecutive segments of one recording or talk, in the field ``segments`` of its record.

    {"segments": [{"audio": "0.flac", "text": "..."}, {"audio": "1.flac", "text": "..."}], "language": "ja"}

A segment may also say when it is spoken, ``start`` and ``end`` in seconds of the one clip that holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kikimimi import AudioPart, listing, nearest
from kikimimi_tasks.labelled_clip import check_text, is_number, missing_field


@dataclass(frozen=True)
class Segment:
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


def read_segments(task: str, record: dict[str, Any], clips: list[str]) -> list[Segment]:
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


def _segment(item: Any, where: str, clips: list[str]) -> Segment:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: expected a mapping with text and audio")
    audio = item.get("audio")
    return Segment(
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
