"""Texts with blanks that a record fills in: ``{field}`` and ``{field.sub}``, and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from kikimimi_tasks.labelled_clip import LabelledClip, check_text, is_number

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
        for field, text in zip(self.fields, self.texts[1:], strict=True):
            filled += [_value(clip, field, separator), text]
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
