"""What a sweep varies: factors with their levels, and ranges that a search draws from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kikimimi.console.terminal import json_text, shortened
from kikimimi.console.words import counted, listing, nearest
from kikimimi.errors import RequestError
from kikimimi.files.yaml_text import parse_yaml

SEED_OPTION = "seed"
"""The option whose levels are repetitions of a setting, not settings."""
_BARE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@+-]*")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")
_LONGEST_LABEL = 60


@dataclass(frozen=True)
class Level:
    """One of the values of a factor.

    Attributes:
        label: What tables call it.
        changes: What it changes of the recipe, ``key=value`` each.
    """

    label: str
    changes: tuple[str, ...]

    def is_same(self, other: Level) -> bool:
        """Whether another one changes the same options to the same values, however they are written."""
        return [_meant(change) for change in self.changes] == [_meant(change) for change in other.changes]


@dataclass(frozen=True)
class Factor:
    """Something that a sweep varies.

    Attributes:
        name: Dotted name of the option, or of the variants.
        levels: Its levels; their labels are told apart.
    """

    name: str
    levels: tuple[Level, ...]

    def to_words(self) -> str:
        """Return its levels for people."""
        return ", ".join(level.label for level in self.levels)

    def level(self, label: object) -> Level | None:
        """Return the level of a label, or None."""
        text = written_value(label)
        return next((level for level in self.levels if level.label in (label, text)), None)

    def required_level(self, label: object, where: str) -> Level:
        """Return the level of a label.

        Raises:
            RequestError: There is none; the message names the ones that there are.
        """
        if found := self.level(label):
            return found
        labels = [level.label for level in self.levels]
        text = label if isinstance(label, str) else written_value(label)
        raise RequestError(
            f"{where}: there is no level {shortened(text, 80)}.{nearest(text, labels)} "
            f"Levels: {listing(labels)}"
        )


@dataclass(frozen=True)
class DrawnRange:
    """Numbers that a search draws an option from.

    Attributes:
        name: Dotted name of the option.
        low: Smallest.
        high: Largest.
        log: Whether the logarithm is drawn evenly.
        whole: Whether they are whole numbers.
    """

    name: str
    low: float
    high: float
    log: bool
    whole: bool

    def to_words(self) -> str:
        """Return its ends for people."""
        whole = ", whole numbers" if self.whole else ""
        return f"{self.low:g} to {self.high:g}{whole}{', on a logarithmic scale' if self.log else ''}"

    def level(self, value: float) -> Level:
        """Return the level of a value that was drawn."""
        shown = str(int(value)) if self.whole else f"{value:.4g}"
        return Level(shown, (f"{self.name}={int(value) if self.whole else value!r}",))

    def level_of(self, written: str) -> Level | None:
        """Return the level of a value as a change spells it; None where it is not in the range."""
        try:
            value = float(written)
        except ValueError:
            return None
        inside = self.low <= value <= self.high and not (self.whole and value % 1)
        return self.level(value) if inside else None


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return the end of each dotted name that tells it from the others: its last part, if that does."""
    parts = {name: name.split(".") for name in names}
    found = {}
    for name, own in parts.items():
        others = [other for one, other in parts.items() if one != name]
        length = next(
            (size for size in range(1, len(own)) if all(one[-size:] != own[-size:] for one in others)),
            len(own),
        )
        found[name] = ".".join(own[-length:])
    return found


def read_change(text: str) -> Factor | DrawnRange | str:
    """Read what the command line gives: a factor ``key=a,b``, a range ``key=1e-4..1e-2:log``, or one change.

    Raises:
        RequestError: It is no ``key=value``, or a level is empty or stands twice.
    """
    key, equals, written = text.partition("=")
    if not equals or not key:
        raise RequestError(f"{shortened(text, 80)}: expected key=value, or key=one,another for a factor")
    if found := _interval(key, written):
        return found
    values = _split(written)
    if len(values) == 1:
        return text
    if empty := [number for number, value in enumerate(values, start=1) if not value]:
        raise RequestError(
            f"{shortened(text, 80)}: level {empty[0]} is empty; write null, or '\"\"' for an empty text"
        )
    return factor_of(key, [(value, _read(value)) for value in values])


def factor_of(key: str, values: Sequence[tuple[str, Any]], *, labels: Sequence[str] = ()) -> Factor:
    """Return the factor of an option.

    Args:
        key: Dotted name of the option.
        values: Each level as it is written after the ``=``, and what that means.
        labels: What tables call them; none are made from the values.

    Raises:
        RequestError: Two levels are the same.
    """
    labels = labels or _labels([value for _, value in values])
    levels = [Level(label, (f"{key}={written}",)) for label, (written, _) in zip(labels, values, strict=True)]
    return distinct_levels(Factor(key, tuple(levels)))


def distinct_levels(factor: Factor) -> Factor:
    """Return a factor whose levels are told apart.

    Raises:
        RequestError: It has none, or two of them are the same.
    """
    labels = [level.label for level in factor.levels]
    if not labels:
        raise RequestError(f"{factor.name}: a factor has at least one level")
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise RequestError(f"{factor.name}: the level {shortened(twice, 60)} is given twice")
    return factor


def range_of(name: str, low: float, high: float, *, log: bool) -> DrawnRange:
    """Return the range of an option.

    Raises:
        RequestError: It is empty, or begins at or below 0 on a logarithmic scale.
    """
    whole = isinstance(low, int) and isinstance(high, int)
    if not low < high:
        raise RequestError(f"{name}: the range {low:g}..{high:g} is empty: the smaller end comes first")
    if log and low <= 0:
        raise RequestError(f"{name}: a logarithmic range begins above 0, not at {low:g}")
    return DrawnRange(name, low, high, log, whole)


def written_value(value: Any) -> str:
    """Write a value as a change of a recipe spells it, on one line."""
    if isinstance(value, str) and _BARE.fullmatch(value) and _read(value) == value:
        return value
    return json_text(value)


def _interval(key: str, written: str) -> DrawnRange | None:
    found = _RANGE.fullmatch(written)
    if found is None:
        return None
    low, high = (_read(end) for end in found.groups()[:2])
    return range_of(key, low, high, log=bool(found[3]))


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside of brackets and quotation marks."""
    parts, depth, quote, before = [""], 0, "", ","
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and before in ",[{: ":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            before = character
            continue
        before = character
        parts[-1] += character
    return [part.strip() for part in parts]


def _meant(change: str) -> tuple[str, Any]:
    key, _, written = change.partition("=")
    return key, _read(written)


def _read(text: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError:
        return text  # the recipe says what is wrong with it


def _labels(values: Sequence[Any]) -> list[str]:
    """Return short names of values that are told apart, where the values are."""
    sections = [value if isinstance(value, Mapping) else {"name": value} for value in values]
    if not any(isinstance(value, Mapping) for value in values):
        return [_label(value) for value in values]
    labels = []
    for section in sections:
        same = [other for other in sections if other.get("name") == section.get("name")]
        rest = {key: value for key, value in section.items() if key != "name"}
        shown = {
            key: value
            for key, value in rest.items()
            if "name" not in section or any(other.get(key) != value for other in same)
        }
        parts = [_label(section["name"])] if "name" in section else []
        labels.append(" ".join([*parts, *(f"{key}={_label(value)}" for key, value in shown.items())]))
    return labels


def _label(value: Any) -> str:
    text = value if isinstance(value, str) else json_text(value)
    if len(text) <= _LONGEST_LABEL:
        return text
    # What is cut may be all that tells two values apart.
    return f"{text[: _LONGEST_LABEL - 24]}... ({counted(len(text), 'character')})"
