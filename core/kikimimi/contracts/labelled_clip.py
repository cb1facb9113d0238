"""A labelled clip as tasks read it: its fields, and messages that say what it lacks and what it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kikimimi.console.words import listing


@dataclass(frozen=True)
class LabelledClip:
    """One clip and what is known of it. A field stands at the record's top level or in ``meta``.

    Attributes:
        task: Name of the task that reads it, for messages.
        audio: Name of the clip.
        record: The record's JSON.
        meta: Its ``meta``.
    """

    task: str
    audio: str
    record: dict[str, Any]
    meta: dict[str, Any]

    @classmethod
    def read(cls, task: str, record: dict[str, Any], clips: list[str]) -> LabelledClip:
        """Check that a record is one labelled clip.

        Raises:
            ValueError: It is a conversation, has a `meta` that is no mapping, or not exactly one clip.
        """
        if "messages" in record:
            raise ValueError(
                f"messages: task '{task}' makes the turns itself; the record has them: use task 'chat'"
            )
        meta = read_meta(record)
        if len(clips) != 1:
            raise ValueError(
                f"task '{task}' needs exactly one clip; the record has {len(clips)}: {listing(clips)}"
            )
        return cls(task, clips[0], record, meta)

    def find(self, *names: str) -> tuple[str, Any]:
        """Return the first of these fields that the record has, and what it holds; else an empty name."""
        for name in names:
            for place in (self.record, self.meta):
                if place.get(name) is not None:
                    return name, place[name]
        return "", None

    def lacks(self, *names: str, what: str) -> ValueError:
        """Return the error that says that none of these fields is there."""
        return missing_field(self.task, self.record, " or ".join(names), what)

    def optional_text(self, name: str) -> str | None:
        """Return a field's text, or None where the record does not have it.

        Raises:
            ValueError: It holds something else than a text.
        """
        found, value = self.find(name)
        return check_text(value, name) if found else None

    def text(self, *names: str, what: str) -> str:
        """Return the text of the first of these fields that is there.

        Args:
            names: Fields in order of preference.
            what: What the text is, for the message: ``the transcript``.

        Raises:
            ValueError: None of them is there, or it holds no text.
        """
        name, value = self.find(*names)
        if not name or (isinstance(value, str) and not value.strip()):
            raise self.lacks(*names, what=what)
        return check_text(value, name)

    def texts(self, *names: str, what: str) -> list[str]:
        """Return the texts of the first of these fields that is there: a list, or one text or number alone.

        Raises:
            ValueError: None of them is there, or it holds something else.
        """
        name, value = self.find(*names)
        if not name or value in ("", []):
            raise self.lacks(*names, what=what)
        items = value if isinstance(value, list) else [value]
        return [check_text(str(item) if is_number(item) else item, name) for item in items]

    @property
    def language(self) -> str | None:
        """ISO 639-1 code of what is spoken, or None.

        Raises:
            ValueError: The field holds something else than a text.
        """
        return self.optional_text("language")


def read_meta(record: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a record.

    Raises:
        ValueError: ``meta`` is no mapping.
    """
    meta = record.get("meta") or {}
    if not isinstance(meta, dict):
        raise ValueError("meta: expected a mapping")
    return meta


def missing_field(task: str, record: dict[str, Any], name: str, what: str) -> ValueError:
    """Return the error of a field that is not there, or empty: what is needed, and what there is."""
    meta = record.get("meta")
    inside = [f"meta.{key}" for key in meta] if isinstance(meta, dict) else []
    fields = [key for key in record if key != "meta"]
    return ValueError(f"{name}: task '{task}' needs {what}; the record has {listing([*fields, *inside])}")


def is_number(value: Any) -> bool:
    """Whether a value is a number that a text can show."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_text(value: Any, name: str) -> str:
    """Return the value of a field.

    Raises:
        ValueError: It is no text, or has nothing but spaces.
    """
    if not isinstance(value, str) or not value.strip():
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
        raise ValueError(f"{name}: expected a text that is not empty, not {shown}")
    return value
