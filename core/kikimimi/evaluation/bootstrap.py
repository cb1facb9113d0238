"""How far a score, and the difference of two, would move with other utterances: the bootstrap (Efron, 1979).

Bisani & Ney (2004, doi 10.1109/ICASSP.2004.1326009) draw whole utterances, since the errors within one are
not independent, and compare two systems on the same draws; Koehn (2004, W04-3250) does so of any metric of a
corpus. Where a speaker says many utterances, these are not independent either: groups are drawn whole then.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi.contracts.metric import Details, Interval, Metric

DRAWS, SEED = 1000, 0
"""How many corpora are drawn, and the seed: the same utterances always have the same interval."""
LEVEL = 0.95
_MOST_KEPT = 20_000  # utterances whose draws are kept for the next system: 40 MB


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a system differs from another on the same utterances.

    Attributes:
        difference: Value of the one less that of the other, in the metric's unit.
        low: Lower end of the 95 % interval of the difference.
        high: Its upper end.
        differ: Utterances of which the details differ.
        count: Utterances that were compared.
    """

    difference: float
    low: float
    high: float
    differ: int
    count: int

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 0: only then is one system said to be better than the other."""
        return self.low > 0 or self.high < 0

    def reversed(self) -> Comparison:
        """Return how the other differs from the one."""
        # Less from nothing, not with another sign: no zero is negative.
        return replace(self, difference=0 - self.difference, low=0 - self.high, high=0 - self.low)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "differ": self.differ,
            "count": self.count,
        }


def interval(
    metric: Metric, utterances: Sequence[Details | None], groups: Sequence[Hashable] | None = None
) -> Interval | None:
    """Return the lower and upper end of the 95 % interval of a metric's value, in its unit.

    Args:
        metric: The metric.
        utterances: Details of each utterance, None where one is not scored (`Score.utterances`).
        groups: What each utterance belongs to, such as its speaker: groups are drawn whole. None draws
            utterances.

    Returns:
        The ends; None of fewer than two utterances or groups, and where a drawn corpus has no value.
    """
    kept = [row for row, details in enumerate(utterances) if details is not None]
    values = _values(metric, [utterances[row] for row in kept], _of(groups, kept))
    return None if values is None else _ends(values)


def compare(
    metric: Metric,
    utterances: Sequence[Details | None],
    others: Sequence[Details | None],
    groups: Sequence[Hashable] | None = None,
) -> Comparison | None:
    """Compare a system with another on the same draws of the same utterances (a paired bootstrap).

    Args:
        metric: The metric.
        utterances: Details of each utterance of the one.
        others: Details of each of the other, in the same order.
        groups: What each belongs to, as for `interval`.

    Returns:
        The difference; utterances that either leaves out are left out of both. None of fewer than two
        utterances or groups, and where a drawn corpus has no value.
    """
    pairs = list(zip(utterances, others, strict=True))
    kept = [row for row, pair in enumerate(pairs) if None not in pair]
    sides = [[pairs[row][side] for row in kept] for side in (0, 1)]
    values = [_values(metric, side, _of(groups, kept)) for side in sides]
    if values[0] is None or values[1] is None:
        return None
    whole = [metric.value(add_up([details for details in side if details])) for side in sides]
    low, high = _ends(values[0] - values[1])
    differ = sum(metric.differs(one, other) for one, other in zip(*sides, strict=True))
    return Comparison(difference=whole[0] - whole[1], low=low, high=high, differ=differ, count=len(kept))


def _of(groups: Sequence[Hashable] | None, rows: Sequence[int]) -> list[Hashable] | None:
    return None if groups is None else [groups[row] for row in rows]


def add_up(details: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the sums of the details of some utterances."""
    return {name: sum(one[name] for one in details) for name in details[0]}


def _values(
    metric: Metric, utterances: Sequence[Details | None], groups: Sequence[Hashable] | None
) -> NDArray[np.float64] | None:
    """Return the value of each drawn corpus, (DRAWS,)."""
    kept = [details for details in utterances if details is not None]
    if len(kept) < 2:
        return None
    names = list(kept[0])
    table = np.array([[details[name] for name in names] for details in kept], np.float64)  # (utterances, D)
    if groups is not None:
        table = group_sums(table, groups)
    return drawn_values(metric, names, table) if len(table) > 1 else None


def group_sums(table: NDArray[np.float64], groups: Sequence[Hashable]) -> NDArray[np.float64]:
    """Return the sums of the rows of each group, in the order in which groups come first."""
    number = {group: row for row, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(number), table.shape[1]))
    np.add.at(sums, [number[group] for group in groups], table)
    return sums


def drawn_values(
    metric: Metric, names: Sequence[str], table: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return a metric's value on each drawn corpus, (DRAWS,); the same draws for every table of one length.

    Args:
        metric: The metric.
        names: Names of the details.
        table: Details of each utterance or group, (utterances, D).

    Returns:
        The values; None where a drawn corpus has none.
    """
    drawn = [(times @ table).tolist() for times in _draws(len(table))]
    try:
        return np.array([metric.value(_details(names, row)) for row in drawn], np.float64)
    except ZeroDivisionError:
        return None


def _details(names: Sequence[str], row: Sequence[float]) -> Mapping[str, float]:
    return dict(zip(names, row, strict=True))


def _draws(size: int) -> Iterable[NDArray[np.uint16]]:
    """Yield of each drawn corpus how often each utterance or group stands in it, (size,)."""
    return _kept_draws(size) if size <= _MOST_KEPT else _new_draws(size)


def _new_draws(size: int) -> Iterator[NDArray[np.uint16]]:
    random = np.random.default_rng(SEED)
    for _ in range(DRAWS):
        yield np.bincount(random.integers(size, size=size), minlength=size).astype(np.uint16)


@lru_cache(maxsize=2)
def _kept_draws(size: int) -> list[NDArray[np.uint16]]:
    return list(_new_draws(size))


def _ends(values: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high
