"""Which columns of a data set are what: how its rows become records, as a YAML file says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

ROLES = ("system", "user", "assistant")
IfNull = Literal["error", "skip", "end"]


def need(holds: bool, message: str) -> None:
    """Raise a ValueError with the message unless the condition holds."""
    if not holds:
        raise ValueError(message)


@dataclass(kw_only=True, frozen=True)
class Part:
    """One part of a turn: audio, text of a column, or a fixed text."""

    audio: str | None = None
    """Column with a clip."""
    transcript: str | None = None
    """Column with what is said in that clip; the LLM never sees it."""
    text: str | None = None
    """Column with a text."""
    fixed: str | None = None
    """A text that is the same in every row."""

    def __post_init__(self) -> None:
        given = [name for name in ("audio", "text", "fixed") if getattr(self, name) is not None]
        need(len(given) == 1, f"needs exactly one of audio, text, fixed; it has {', '.join(given) or 'none'}")
        need(
            self.transcript is None or self.audio is not None,
            "transcript: tells of the audio, so name that too",
        )


@dataclass(kw_only=True, frozen=True)
class Turn:
    """One turn of a conversation: a single part, or several."""

    role: Literal["system", "user", "assistant"]
    """Who speaks."""
    audio: str | None = None
    """Column with a clip."""
    transcript: str | None = None
    """Column with what is said in that clip; the LLM never sees it."""
    text: str | None = None
    """Column with a text."""
    fixed: str | None = None
    """A text that is the same in every row."""
    parts: list[Part] = field(default_factory=list)
    """Several parts in this order, in place of the four above."""
    if_null: IfNull = "error"
    """What to do where a column of the turn is null: leave the row out as malformed (error), leave the turn
    out (skip), or end the conversation before it (end)."""

    def __post_init__(self) -> None:
        single = {name: getattr(self, name) for name in ("audio", "transcript", "text", "fixed")}
        given = {name: value for name, value in single.items() if value is not None}
        need(
            not (given and self.parts),
            f"parts: stands in place of {', '.join(given)}: leave one of the two out",
        )
        if not self.parts:
            object.__setattr__(self, "parts", [Part(**given)])


@dataclass(kw_only=True, frozen=True)
class Messages:
    """A column that holds a list of turns, each with its role."""

    column: str
    """Column with the list."""
    role: str = "role"
    """Key of a turn that says who speaks."""
    text: str | None = "content"
    """Key of a turn with its text."""
    audio: str | None = None
    """Key of a turn with its clip; null where it has none."""
    transcript: str | None = None
    """Key of a turn with what is said in its clip. Where it is also the key of the text, it is text in turns
    without a clip and transcript in those with one."""
    roles: dict[str, str] = field(default_factory=dict)
    """The set's own names of the roles, each with its meaning: system, user or assistant."""
    system: str | None = None
    """A system turn that is put in front, the same in every row."""

    def __post_init__(self) -> None:
        need(self.text is not None or self.audio is not None, "needs text or audio, or both")
        need(
            self.transcript is None or self.audio is not None,
            "transcript: tells of the audio, so name that too",
        )
        for name, role in self.roles.items():
            need(role in ROLES, f"roles: {name}: {role!r} is not one of {', '.join(ROLES)}")


@dataclass(kw_only=True, frozen=True)
class Fields:
    """The whole file: a labelled clip (audio and text), turns column by column, or a column of messages."""

    audio: str | None = None
    """Column with the clip of a labelled clip."""
    text: str | None = None
    """Column with the text of a labelled clip."""
    turns: list[Turn] = field(default_factory=list)
    """The turns of a conversation, each from columns of its own."""
    messages: Messages | None = None
    """A column that holds the turns of a conversation."""
    chosen: str | None = None
    """Column with the preferred answer to a conversation that ends with the user."""
    rejected: str | None = None
    """Column with the answer that preference objectives push down."""
    language: str | dict[str, str] | None = None
    """Language (ISO 639-1 code) of every row, or ``{column: NAME}``."""
    license: str | dict[str, str] | None = None
    """Licence (SPDX name) of every row, or ``{column: NAME}``."""
    meta: dict[str, str | int | float | bool | dict[str, str]] = field(default_factory=dict)
    """What else to keep: names, each with a value for every row or with ``{column: NAME}``."""

    def __post_init__(self) -> None:
        labelled = self.audio is not None or self.text is not None
        forms = {"audio and text": labelled, "turns": bool(self.turns), "messages": self.messages is not None}
        given = [form for form, is_given in forms.items() if is_given]
        need(
            len(given) == 1,
            f"needs exactly one of {', '.join(forms)}; it has {' and '.join(given) or 'none of them'}",
        )
        if labelled:
            need(self.audio is not None, "text: is that of a labelled clip, which needs audio too")
            need(self.text is not None, "audio: is that of a labelled clip, which needs text too")
            for name in ("chosen", "rejected"):
                need(getattr(self, name) is None, f"{name}: answers a conversation; this is a labelled clip")
        for name in ("language", "license"):
            value = getattr(self, name)
            need(
                value is None or (bool(value) and isinstance(value, str)) or column_of(value) is not None,
                f"{name}: expected a text or {{column: NAME}}, not {value!r}",
            )
        for name, value in self.meta.items():
            need(
                not isinstance(value, dict) or column_of(value) is not None,
                f"meta: {name}: expected a value or {{column: NAME}}, not {value!r}",
            )
            need(name not in ("language", "license"), f"meta: {name}: stands beside meta, not in it")

    def columns(self) -> list[str]:
        """Return every column that is named, each once, in the order in which they are named."""
        found: list[str | None] = [self.audio, self.text]
        for turn in self.turns:
            for part in turn.parts:
                found += [part.audio, part.transcript, part.text]
        if self.messages is not None:
            found.append(self.messages.column)
        found += [self.chosen, self.rejected]
        found += [column_of(value) for value in (self.language, self.license, *self.meta.values())]
        return list(dict.fromkeys(name for name in found if name is not None))


def column_of(value: Any) -> str | None:
    """Return the column that ``{column: NAME}`` names, or None where the value is none of this form."""
    if isinstance(value, dict) and list(value) == ["column"] and isinstance(value["column"], str):
        return value["column"]
    return None
