"""A task that is all data: requests and an answer as texts, in a recipe or in a YAML file beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, Any

from annotated_types import MinLen

from kikimimi import (
    ClipTask,
    Distinct,
    LabelledClip,
    PromptBank,
    RequestConfig,
    RequestTask,
    Text,
    check_choice,
    check_text,
    is_number,
)

_TOKEN = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<field>[\w-]+(?:\.[\w-]+)*)\}|(?P<wrong>\{[^{}]*\}?|\})")


@dataclass(frozen=True)
class Template:
    """A text with blanks. No format, index or attribute can be asked for: a template reads, it runs nothing.

    Attributes:
        texts: What stands before the first blank, between two, and after the last one.
        fields: The blanks in order.
    """

    texts: tuple[str, ...]
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, where: str) -> Template:
        """Read a template.

        Args:
            text: Its source; ``{{`` and ``}}`` stand for braces.
            where: What messages call it.

        Raises:
            ValueError: A brace opens or closes something else than a blank.
        """
        texts, fields, end = [""], [], 0
        for match in _TOKEN.finditer(text):
            texts[-1] += text[end : match.start()]
            end = match.end()
            if match["wrong"]:
                raise ValueError(
                    f"{where}: {match['wrong']!r} is no blank: write {{field}} or {{field.sub}} with the "
                    "name of a field, and {{ or }} for a brace"
                )
            if match["brace"]:
                texts[-1] += match["brace"][0]
            else:
                fields.append(match["field"])
                texts.append("")
        texts[-1] += text[end:]
        return cls(tuple(texts), tuple(fields))

    def fill(self, clip: LabelledClip, separator: str) -> str:
        """Return the text with the blanks filled in.

        Args:
            clip: Has the fields, at its record's top level or in ``meta``.
            separator: What stands between the items of a field that is a list.

        Raises:
            ValueError: A field is not there, or holds no text, number, or list of them.
        """
        filled = [self.texts[0]]
        for name, text in zip(self.fields, self.texts[1:], strict=True):
            filled += [_value(clip, name, separator), text]
        return "".join(filled)


def _value(clip: LabelledClip, field: str, separator: str) -> str:
    first, *rest = field.split(".")
    found, value = clip.find(first)
    if first == "meta" and not found:
        value = clip.meta
    for name in rest:
        value = value.get(name) if isinstance(value, dict) else None
    if value is None or value == "" or value == []:
        raise clip.lacks(field, what="this field")
    items: list[Any] = value if isinstance(value, list) else [value]
    return separator.join(check_text(str(item) if is_number(item) else item, field) for item in items)


@dataclass(kw_only=True, frozen=True)
class PromptedConfig(RequestConfig):
    """Options of the task `prompted`. Requests and answer may hold ``{field}`` and ``{field.sub}``, filled in
    from the record (top level, then ``meta``); ``{{`` and ``}}`` stand for braces.
    """

    prompts: dict[str, Annotated[list[Text], MinLen(1), Distinct]] = field(default_factory=dict)
    """Requests by language, such as ``ja: [...]``; the first of each is the one that evaluation uses. Without
    any, the audio stands alone."""
    answer: Text = "{text}"
    """What the assistant answers."""
    transcript: Text | None = "text"
    """Field of the record that holds what is said in the clip, if it has it; null where the clip is no
    speech."""
    separator: str = ", "
    """What stands between the items of a field that is a list."""
    joint: str = "\n"
    """What stands between request and transcript where an objective reads both in writing (`distill`)."""

    unasked = "prompts is empty"

    def __post_init__(self) -> None:
        for language, texts in self.prompts.items():
            for text in texts:
                Template.parse(text, f"prompts.{language}")
        Template.parse(self.answer, "answer")
        super().__post_init__()
        if self.prompts:
            check_choice("language", self.language, ("auto", *self.prompts))

    @property
    def asks(self) -> bool:
        """Whether there is a request."""
        return bool(self.prompts)


class Prompted(RequestTask[PromptedConfig]):
    """Asks what its options say, and answers with fields of the record: a task without code."""

    name = "prompted"
    Config = PromptedConfig

    def bank(self) -> PromptBank:
        """Return the requests by language, their blanks open."""
        return self.config.prompts

    def request(self, language: str | None, clip: LabelledClip | None, rng: Random | None) -> str | None:
        """Return a request with its blanks filled in."""
        text = super().request(language, clip, rng)
        if text is None:
            return None
        template = Template.parse(text, "prompts")
        if clip is not None:
            return template.fill(clip, self.config.separator)
        if template.fields:
            raise ValueError(f"task '{self.name}' has no fixed question: its request has blanks")
        return template.texts[0]

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return the answer with its blanks filled in."""
        return Template.parse(self.config.answer, "answer").fill(clip, self.config.separator)

    @property
    def joint(self) -> str:
        """What stands between the words of the clip and the request where both are read in writing."""
        return self.config.joint

    def said(self, clip: LabelledClip) -> str | None:
        """Return the transcript, where the record has one."""
        return None if self.config.transcript is None else clip.optional_text(self.config.transcript)

    def phrasings(self) -> list[str]:
        """Return the fixed parts of requests and answer, and the separator."""
        bank = self.bank()
        languages = bank if self.config.language == "auto" else [self.config.language]
        sources = [text for language in languages if language in bank for text in bank[language]]
        templates = [Template.parse(text, "prompts") for text in [*sources, self.config.answer]]
        pieces = [text for template in templates for text in template.texts if text]
        blanks = any(template.fields for template in templates)
        separator = [self.config.separator] if blanks else []
        return list(dict.fromkeys([*ClipTask.phrasings(self), *pieces, *separator]))
