"""What settings cost and what they reach: nothing that costs less is better than those on the front."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kikimimi.console.words import format_value
from kikimimi.report.charts import Chart
from kikimimi.report.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LOG_FROM,
    RIGHT,
    TOP,
    WIDTH,
    format_step,
    new_figure,
    page_svg,
    plot_axes,
    round_ticks,
    set_values,
)


@dataclass(frozen=True, kw_only=True)
class CostPoint:
    """Something that was measured, and what it costs.

    Attributes:
        name: What it is.
        mark: What stands above it where it is on the front.
        cost: What it costs.
        value: What was measured.
        low: Lower end of the value's interval.
        high: Its upper end.
    """

    name: str
    mark: str
    cost: float
    value: float
    low: float
    high: float


def pareto_front(points: Sequence[CostPoint], better: str) -> list[CostPoint]:
    """Return the points of which none costs as little and is as good, the cheapest first.

    Args:
        points: The points.
        better: ``lower`` or ``higher``: which values are better.
    """
    sign = 1 if better == "lower" else -1
    front: list[CostPoint] = []
    for point in sorted(points, key=lambda one: (one.cost, sign * one.value)):
        if not front or sign * point.value < sign * front[-1].value:
            front.append(point)
    return front


def pareto_chart(points: Sequence[CostPoint], *, title: str, cost: str, unit: str, better: str) -> Chart:
    """Draw values against what they cost, and the front: what nothing cheaper is as good as.

    Args:
        points: The points, at least one; costs are above 0.
        title: What the values are.
        cost: What the costs are, with their unit.
        unit: Unit of the values.
        better: ``lower`` or ``higher``: which values are better.
    """
    from matplotlib.ticker import NullLocator

    front = pareto_front(points, better)
    costs = [point.cost for point in points]
    log = max(costs) > LOG_FROM * min(costs)
    words: dict[str, list[str]] = {}
    with new_figure(HEIGHT) as figure:
        axes = plot_axes(figure, LEFT, TOP + 8, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM - 8)
        set_values(axes, min(one.low for one in points), max(one.high for one in points))
        if log:
            axes.set_xscale("log")
            axes.set_xlim(min(costs) / 1.3, max(costs) * 1.3)
            exponents = range(
                math.ceil(math.log10(min(costs) / 1.3)), math.floor(math.log10(max(costs) * 1.3)) + 1
            )
            ticks = [10.0**exponent for exponent in exponents]
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            margin = (max(costs) - min(costs)) * 0.06 or max(costs) * 0.1
            low, high = min(costs) - margin, max(costs) + margin
            axes.set_xlim(low, high)
            ticks = [tick for tick in round_ticks(low, high, nbins=4) if low <= tick <= high]
        axes.set_xticks(ticks, labels=[format_step(float(f"{tick:.4g}")) for tick in ticks])
        axes.set_xlabel(cost)
        stairs = [step for point, after in _pairwise(front) for step in _stairs(point, after)]
        axes.plot(*zip(*stairs, strict=True), gid="raw line-1", clip_on=False)
        for point in points:
            style = "line-1" if point in front else "line-0"
            if point.low < point.high:
                axes.plot([point.cost] * 2, [point.low, point.high], gid=f"raw {style}", clip_on=False)
            axes.plot([point.cost], [point.value], "o", gid=f"mark {style}", clip_on=False, zorder=3)
            said = f"{point.name}: {format_value(point.value)} {unit}".rstrip()
            words.setdefault(f"mark {style}", []).append(
                f"{said}, {cost} {format_step(float(f'{point.cost:.4g}'))}"
            )
        for point in front:
            at = (point.cost, point.value)
            axes.annotate(point.mark, at, xytext=(9, 4), textcoords="offset points", ha="center")
        svg = page_svg(figure, f"{title}: {len(points)} points, {len(front)} on the front", words)
    on_front = "; ".join(f"{one.mark}: {one.name}" if one.mark else one.name for one in front)
    notes = (f"Nothing that costs as little is as good as, from the cheapest: {on_front}.",)
    return Chart(f"{title} (log scale of the cost)" if log else title, svg, notes=notes)


def _pairwise(front: Sequence[CostPoint]) -> Iterator[tuple[CostPoint, CostPoint]]:
    yield from zip(front, [*front[1:], front[-1]], strict=True)


def _stairs(point: CostPoint, after: CostPoint) -> Iterator[tuple[float, float]]:
    yield point.cost, point.value
    yield after.cost, point.value
