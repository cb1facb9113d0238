"""Axes of charts: where their ticks stand, and how numbers on them are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kikimimi.console.words import round_size


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        low: Value at its beginning.
        high: Value at its end.
        log: Whether it is logarithmic.
        ticks: Values that are written beside it.
    """

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Return where `value` lies between the ends of the axis, from 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def value_axis(low: float, high: float, log: bool) -> Axis:
    """Return an axis that ends at ticks; a linear one begins at 0 where that wastes little room."""
    if not log:
        return linear_axis(0.0 if 0 <= low < 0.5 * high else low, high, tight=False)
    # The 1-2-5 series between the decades, where there are few of them.
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    marks = (1.0, 2.0, 5.0) if last - first <= 2 else (1.0,)
    series = [mark * 10.0**decade for decade in range(first, last + 1) for mark in marks]
    bottom = max(mark for mark in series if mark <= low * (1 + 1e-9))
    top = min(mark for mark in series if mark >= high * (1 - 1e-9))
    return Axis(bottom, top, True, tuple(mark for mark in series if bottom <= mark <= top))


def linear_axis(low: float, high: float, *, tight: bool) -> Axis:
    """Return an axis with about five round ticks; `tight` ends it at the data instead of at a tick."""
    if low == high:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    size = round_size((high - low) / 5)
    first, last = math.floor(low / size), math.ceil(high / size)
    if not tight:
        low, high = first * size, last * size
    ticks = [count * size for count in range(first, last + 1)]
    # Rounding errors must not push the outermost tick off the axis.
    slack = size * 1e-6
    return Axis(low, high, False, tuple(tick for tick in ticks if low - slack <= tick <= high + slack))


def format_step(step: float) -> str:
    """Write a whole number in few characters: ``9000``, ``12k``, ``1.5M``."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= 10_000 and abs(step) >= size:
            return f"{step / size:.4g}{letter}"
    return f"{step:g}"
