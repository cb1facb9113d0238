"""Scores of parts of an evaluation: by length, by speaker, by any field of the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kikimimi.console.words import nearest
from kikimimi.contracts.metric import Details, Metric
from kikimimi.data.corpus import Corpus
from kikimimi.data.order.sources import record_seconds
from kikimimi.errors import RequestError
from kikimimi.evaluation.bootstrap import add_up, interval

LENGTH = "length"
"""The field that every record has: how long its audio is."""
FIELDS = (LENGTH, "speaker")
"""What scores are broken down by where a recipe names nothing."""
MOST_GROUPS = 50
"""Groups of a field that are kept, those with the most utterances; the others are one."""
_BOUNDS = (2, 5, 10, 20, 30)  # s


def groups_of(
    corpus: Corpus, metas: Sequence[Mapping[str, Any]], name: str, *, optional: bool = False
) -> list[str] | None:
    """Return what each row of a corpus belongs to.

    Args:
        corpus: The data.
        metas: What is known of each row.
        name: ``length``, or a field of the records, at the top level or in ``meta``.
        optional: Return None where no record names the field, instead of an error.

    Raises:
        RequestError: No record names the field.
    """
    if name == LENGTH:
        return [length_group(float(seconds)) for seconds in record_seconds(corpus)]
    return groups_in(metas, name, optional=optional)


def groups_in(metas: Sequence[Mapping[str, Any]], name: str, *, optional: bool = False) -> list[str] | None:
    """Return the values of a field, as texts: ``(none)`` where a row has none.

    Raises:
        RequestError: No row names the field, and it is not optional.
    """
    values = [_value(meta, name) for meta in metas]
    if all(value is None for value in values):
        if optional:
            return None
        known = sorted({key for meta in metas for key in _fields(meta)})
        raise RequestError(f"no record names '{name}'.{nearest(name, known)} Fields: {', '.join(known)}")
    return ["(none)" if value is None else value for value in values]


def length_group(seconds: float) -> str:
    """Return in words how long a clip is."""
    for low, high in zip((0, *_BOUNDS), _BOUNDS, strict=False):
        if seconds < high:
            return f"{low} to {high} s"
    return f"{_BOUNDS[-1]} s and more"


def break_down(
    metric: Metric,
    utterances: Sequence[Details | None],
    groups: Sequence[str],
    drawn: Sequence[str] | None = None,
) -> dict[str, dict[str, float]]:
    """Return the value of each group of utterances with its interval, in the order of lengths or of names.

    Args:
        metric: The metric.
        utterances: Details of each utterance, None where it is not scored.
        groups: What each belongs to.
        drawn: What intervals draw whole, such as each one's speaker, as for `interval`. None, or the groups
            themselves, which hold nothing else to draw, draws utterances.

    Returns:
        ``value``, ``count``, and where there is enough to draw ``low`` and ``high``.
    """
    of: Sequence[str] | Sequence[None] = [None] * len(utterances) if drawn is None else drawn
    kept = [
        (group, details, one)
        for group, details, one in zip(groups, utterances, of, strict=True)
        if details is not None
    ]
    by_utterance = drawn is None or list(drawn) == list(groups)
    sizes = Counter(group for group, _, _ in kept)
    shown = [group for group, _ in sizes.most_common(MOST_GROUPS)]
    rest = len(sizes) - len(shown)
    if rest:
        others = f"({rest} others)"
        kept = [(group if group in shown else others, details, one) for group, details, one in kept]
        shown.append(others)
    found = {}
    for group in sorted(shown, key=_rank):
        inside = [(details, one) for name, details, one in kept if name == group]
        own = [details for details, _ in inside]
        try:
            value = metric.value(add_up(own))
        except ZeroDivisionError:
            continue
        found[group] = {"value": value, "count": len(own)}
        if (ends := interval(metric, own, None if by_utterance else [one for _, one in inside])) is not None:
            found[group] |= {"low": ends[0], "high": ends[1]}
    return found


def _rank(group: str) -> tuple[bool, int, str]:
    first = group.partition(" ")[0]
    return group.startswith("("), int(first) if first.isdecimal() else 0, group


def _value(meta: Mapping[str, Any], name: str) -> str | None:
    inside = meta.get("meta")
    for place in (meta, inside if isinstance(inside, dict) else {}):
        value = place.get(name)
        if isinstance(value, str | int | float | bool) and value != "":
            return str(value)
    return None


def _fields(meta: Mapping[str, Any]) -> list[str]:
    inside = meta.get("meta")
    found = {**(inside if isinstance(inside, dict) else {}), **meta}
    return [key for key, value in found.items() if isinstance(value, str | int | float | bool)]
