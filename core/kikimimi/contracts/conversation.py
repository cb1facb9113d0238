"""A conversation: the turns of user and assistant, in text and audio, before any LLM's template sees them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
"""Who speaks a turn."""

_CLIP_MARKS = re.compile(
    r"<(?:audio|speech|sound|speechhere)>|<\|/?(?:audio|speech)(?:_\w+)?\|>"
    r"|<\|?(?:start|begin|end)_?of_?(?:audio|speech)\|?>|<audio_soft_token>|<audio[\s_]\d+>",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class TextPart:
    """Written words of a turn."""

    text: str


@dataclass(frozen=True)
class AudioPart:
    """A clip of a turn.

    Attributes:
        audio: The name of the clip within its record (``0.flac``).
        text: What is said in it, where that is known. The LLM never sees it; adapters learn to align with it.
        joint: What stands in writing between its words and others of the turn.
    """

    audio: str
    text: str | None = None
    joint: str = "\n"


Part = TextPart | AudioPart


@dataclass(frozen=True)
class Message:
    """One turn: who speaks, and the parts in order."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Conversation:
    """Turns in order.

    Attributes:
        messages: The turns, at least one.
        rejected: Text of an answer that preference objectives push down in favour of the last assistant turn,
            or None.
        meta: What is known of the record (language, licence, source); never shown to the model.
    """

    messages: tuple[Message, ...]
    rejected: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def clips(self) -> list[str]:
        """Return the names of the audio parts in the order in which the model hears them."""
        return [
            part.audio for message in self.messages for part in message.parts if isinstance(part, AudioPart)
        ]

    def transcripts(self) -> list[str | None]:
        """Return what is said in each clip, in the order of `clips`; None where it is not known."""
        return [
            part.text for message in self.messages for part in message.parts if isinstance(part, AudioPart)
        ]

    def prompt(self) -> Conversation:
        """Return the conversation without its last assistant turn, ready to be continued."""
        messages = self.messages[:-1] if self.messages[-1].role == "assistant" else self.messages
        return Conversation(messages, None, self.meta)

    def answered(self, text: str) -> Conversation:
        """Return the conversation with another last answer."""
        return Conversation(
            (*self.prompt().messages, Message("assistant", (TextPart(text),))), None, self.meta
        )

    def written(self) -> Conversation:
        """Return the conversation with what is said in its clips in their place; no audio is left.

        Its `joint`, a line break as a rule, keeps the words of a clip apart from others in the same turn.

        Raises:
            ValueError: What is said in a clip is not known.
        """
        return Conversation(
            tuple(Message(message.role, _written(message.parts)) for message in self.messages),
            self.rejected,
            self.meta,
        )

    def reference(self) -> str:
        """Return the text of the last assistant turn, or an empty string where there is none."""
        last = self.messages[-1]
        if last.role != "assistant":
            return ""
        return "".join(part.text for part in last.parts if isinstance(part, TextPart))


def _written(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    if not any(isinstance(part, AudioPart) for part in parts):
        return parts
    text = ""
    for i, part in enumerate(parts):
        if part.text is None:
            raise ValueError(f"it is not known what is said in clip {part.audio!r}")
        said = part.text.strip()
        clips = [beside for beside in parts[max(0, i - 1) : i + 1] if isinstance(beside, AudioPart)]
        joint = clips[-1].joint if clips else "\n"
        text += joint + said if text and said else said
    return (TextPart(text),)


def parse_conversation(data: dict[str, Any]) -> Conversation:
    """Read the JSON form of a conversation.

    Args:
        data: ``{"messages": [{"role": ..., "content": str | [{"type": "text" | "audio", ...}]}], ...}``. A
            preference pair has ``rejected`` beside its last assistant turn, or ``chosen`` and ``rejected``
            after the last user turn; ``chosen`` then is the last assistant turn.

    Raises:
        ValueError: The form is wrong; the message names the place, such as ``messages[0].content[1].type``.
    """
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages: expected a list of at least one turn")
    turns = tuple(_message(m, f"messages[{i}]") for i, m in enumerate(messages))
    chosen, rejected = _answer(data, "chosen"), _answer(data, "rejected")
    if chosen is not None:
        if turns[-1].role == "assistant":
            raise ValueError("chosen: the last turn is an answer already: leave one of the two out")
        turns += (Message("assistant", (TextPart(chosen),)),)
    if rejected is not None and turns[-1].role != "assistant":
        raise ValueError(
            "rejected: there is no answer to prefer to it: end with an assistant turn, or give chosen"
        )
    meta = data.get("meta") or {}
    if not isinstance(meta, dict):
        raise ValueError("meta: expected a mapping")
    conversation = Conversation(turns, rejected, meta)
    if rejected is not None and rejected == conversation.reference():
        raise ValueError("rejected: is the same text as the answer that is preferred to it")
    return conversation


def clip_mark(text: str) -> str | None:
    """Return what in a text stands for a clip, as training tools write it (``<audio>``), or None.

    Here a clip is a part of its own: left in a text, such a mark would be read and learnt as words.
    """
    found = _CLIP_MARKS.search(text)
    return None if found is None else found[0]


def _answer(data: dict[str, Any], name: str) -> str | None:
    text = data.get(name)
    if text is None or (isinstance(text, str) and text.strip()):
        return text
    raise ValueError(f"{name}: expected a text that is not empty, or null")


def _message(data: Any, where: str) -> Message:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a mapping with role and content")
    role = data.get("role")
    if role not in ("system", "user", "assistant"):
        raise ValueError(f"{where}.role: {role!r} is not one of system, user, assistant")
    content = data.get("content")
    if isinstance(content, str):
        return Message(role, (TextPart(content),))
    if not isinstance(content, list) or not content:
        raise ValueError(f"{where}.content: expected a text or a list of at least one part")
    return Message(role, tuple(_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)))


def _part(data: Any, where: str) -> Part:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a mapping with a type")
    kind = data.get("type")
    if kind not in ("text", "audio"):
        raise ValueError(f"{where}.type: {kind!r} is not one of audio, text")
    value = data.get(kind)
    if not isinstance(value, str) or (kind == "audio" and not value):
        raise ValueError(f"{where}.{kind}: expected a text")
    if kind == "text":
        return TextPart(value)
    said = data.get("text")
    if not (said is None or isinstance(said, str)):
        raise ValueError(f"{where}.text: expected what is said in the clip as a text, or null")
    return AudioPart(value, said)
