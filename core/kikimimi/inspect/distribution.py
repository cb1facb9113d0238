"""How a quantity is spread over many records: percentiles, and counts in bins of a round width."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi.console.words import round_size

PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
_BINS, _MOST_BINS = 24, 36  # for what is usual, and where all values find room in them
# The few values that are far above all others must not press these into one bin: those above the percentile
# _BEYOND, or further above the median than _RANGES times the distance between the quartiles.
_BEYOND, _RANGES = 99.5, 6


@dataclass(frozen=True)
class Distribution:
    """A quantity over many records.

    Attributes:
        unit: The values' unit (``s``).
        count: How many values there are.
        mean: Their mean.
        percentiles: Values at `PERCENTILES`; the first and the last are the extremes.
        edges: (bins + 1,) where bins begin, and where the last one ends; a value on an edge belongs above it.
        counts: (bins,) values in each bin.
        beyond: Whether the last bin is not of the width of the others but takes whatever lies above them.
    """

    unit: str
    count: int
    mean: float
    percentiles: tuple[float, ...]
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    beyond: bool

    @property
    def median(self) -> float:
        """The 50th percentile."""
        return self.percentiles[PERCENTILES.index(50)]

    def coarser(self, bins: int) -> Distribution:
        """Return the same with neighbouring bins together, so that there are at most `bins` of one width."""
        equal = len(self.counts) - self.beyond
        size = -(-equal // bins)
        starts = range(0, equal, size)
        counts = [sum(self.counts[start : min(start + size, equal)]) for start in starts]
        edges = [self.edges[start] for start in starts]
        return replace(self, counts=(*counts, *self.counts[equal:]), edges=(*edges, *self.edges[equal:]))

    def label(self, number: int) -> str:
        """Return the bounds of a bin as a text: ``2 - 2.5``, or ``30 -`` for what lies beyond."""
        low, high = f"{self.edges[number]:,.10g}", f"{self.edges[number + 1]:,.10g}"
        return f"{low} -" if self.beyond and number == len(self.counts) - 1 else f"{low} - {high}"


def distribution(values: NDArray[Any], unit: str, *, whole: bool = False) -> Distribution | None:
    """Measure values.

    Args:
        values: (n,) finite numbers.
        unit: What they are counted in.
        whole: Whether they are whole numbers: then no bin is narrower than 1.

    Returns:
        None where there are no values.
    """
    if not len(values):
        return None
    exact = values.astype(np.float64)
    percentiles = np.percentile(exact, [*PERCENTILES, _BEYOND])
    low, high, usual = float(percentiles[0]), float(percentiles[-2]), float(percentiles[-1])
    quarter, median, three_quarters = (float(percentiles[PERCENTILES.index(p)]) for p in (25, 50, 75))
    if three_quarters > quarter:
        usual = min(usual, median + _RANGES * (three_quarters - quarter))
    rough = (usual - low) / (_BINS - 1) or abs(low) / 10 or 1.0
    size = max(round_size(rough), 1.0 if whole else 0.0)
    # Bins are numbered from zero on: edges are multiples of their width.
    first, last = _number(low, size), _number(high, size) + 1
    if last - first > _MOST_BINS:
        last = _number(usual, size) + 1
    edges = [float(f"{number * size:.12g}") for number in range(first, last + 1)]
    beyond = high >= edges[-1]
    counts = np.bincount(np.maximum(np.searchsorted(edges, exact, side="right") - 1, 0), minlength=len(edges))
    return Distribution(
        unit=unit,
        count=len(exact),
        mean=float(exact.mean()),
        percentiles=tuple(percentiles[:-1].tolist()),
        edges=tuple([*edges, high] if beyond else edges),
        counts=tuple(counts[: len(edges) - 1 + beyond].tolist()),
        beyond=beyond,
    )


def _number(value: float, size: float) -> int:
    """Return the bin of a value; 2.3 is at the beginning of bin 23 of width 0.1, however it is rounded."""
    return math.floor(value / size + 1e-9)
