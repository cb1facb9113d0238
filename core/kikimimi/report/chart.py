"""Line charts and bars as inline SVG: no script, no external file, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kikimimi.console.words import format_value
from kikimimi.evaluation.score import Score
from kikimimi.report.axis import Axis, format_step, linear_axis, value_axis

WIDTH, HEIGHT = 480, 270  # a phone shows it at about 0.75, which leaves the 13-pixel text readable
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 10, 38
STYLES = 4  # line styles that the style sheet defines: line-0 ... line-3
SMOOTH_FROM = 40  # points; shorter curves are drawn with markers instead
MAX_BUCKETS = 400  # about one per pixel of the plot
LOG_FROM = 10.0  # largest over smallest value


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values logged over the steps of a run."""

    name: str
    """What the legend calls it."""
    points: Sequence[tuple[float, float]]
    """(step, value) in the order of the steps."""


@dataclass(frozen=True)
class Key:
    """A line of the legend.

    Attributes:
        style: Which of the line styles it has.
        name: The curve's name.
        last: Its last finite value and where that was.
    """

    style: int
    name: str
    last: str


@dataclass(frozen=True)
class Chart:
    """A drawn chart.

    Attributes:
        title: What the values are, and the scale where it is logarithmic.
        svg: The drawing; empty where no curve has a finite value.
        keys: The legend, one for each drawn curve.
        notes: How to read the drawing, and what could not be drawn.
    """

    title: str
    svg: Markup
    keys: tuple[Key, ...]
    notes: tuple[str, ...]


def line_chart(curves: Sequence[Curve], *, title: str, exact: bool = False) -> Chart:
    """Draw curves over the step.

    Where there are more points than pixels, the smallest and the largest of each pixel are drawn, so that no
    spike is lost. Curves of at least `SMOOTH_FROM` points are drawn pale, with an exponential average on top,
    and the value axis is logarithmic where all values are positive and the largest is more than `LOG_FROM`
    times the smallest.

    Args:
        curves: At most `STYLES`; further ones would repeat a line style.
        title: What the values are.
        exact: The values do not scatter (a schedule): no average, and a linear axis.

    Raises:
        ValueError: Too many curves.
    """
    if len(curves) > STYLES:
        raise ValueError(f"a chart shows at most {STYLES} curves, not {len(curves)}")
    notes: list[str] = []
    drawn: list[tuple[str, list[tuple[float, float]]]] = []
    for curve in curves:
        finite = [(x, y) for x, y in curve.points if math.isfinite(y)]
        if lost := len(curve.points) - len(finite):
            notes.append(f"{curve.name}: {lost} of {len(curve.points)} values are not finite and not drawn")
        if finite:
            drawn.append((curve.name, finite))
    if not drawn:
        return Chart(title, Markup(""), (), tuple(notes))
    steps = [x for _, points in drawn for x, _ in points]
    values = [y for _, points in drawn for _, y in points]
    log = not exact and min(values) > 0 and max(values) > LOG_FROM * min(values)
    across, up = linear_axis(min(steps), max(steps), tight=True), value_axis(min(values), max(values), log)
    shapes = [_grid(across, up)]
    keys, said = [], []
    windows: set[int] = set()
    for style, (name, points) in enumerate(drawn):
        window = 1 if exact or len(points) < SMOOTH_FROM else _window(len(points))
        shapes.append(_line(style, points, window, across, up))
        windows.add(window)
        keys.append(Key(style, name, f"{format_value(points[-1][1])} at step {format_step(points[-1][0])}"))
        said.append(f"{name} from {format_value(points[0][1])} to {format_value(points[-1][1])}")
    if spans := " or ".join(str(window) for window in sorted(windows - {1})):
        notes.insert(0, f"Pale: as logged. Strong: exponential average over {spans} points.")
    svg = Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{label}">{shapes}</svg>'
    ).format(w=WIDTH, h=HEIGHT, label=f"{title}: {'; '.join(said)}", shapes=Markup("").join(shapes))
    return Chart(f"{title} (log scale)" if log else title, svg, tuple(keys), tuple(notes))


def error_bar(score: Score, longest: float) -> Markup:
    """Draw a score as one bar of substitutions, deletions and insertions.

    Args:
        score: What is drawn.
        longest: The rate [percent] that fills the width.
    """
    scale = 100 / (longest * score.reference_length) * 100 if longest else 0
    shapes, left = Markup(""), 0.0
    for kind in ("substitutions", "deletions", "insertions"):
        width = getattr(score, kind) * scale
        shapes += Markup('<rect class="{c}" x="{x:.2f}" y="0" width="{w:.2f}" height="10"/>').format(
            c=kind, x=left, w=width
        )
        left += width
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
    ).format(shapes)


def _line(style: int, points: list[tuple[float, float]], window: int, across: Axis, up: Axis) -> Markup:
    if window > 1:
        return _path(f"raw line-{style}", _thinned(points), across, up) + _path(
            f"line-{style}", _thinned(_smoothed(points, window)), across, up
        )
    if len(points) >= SMOOTH_FROM:
        return _path(f"line-{style}", _thinned(points), across, up)
    markers = Markup("").join(
        Markup(
            '<circle class="mark line-{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>'
        ).format(style, *_place(x, y, across, up), f"{format_value(y)} at step {format_step(x)}")
        for x, y in points
    )
    return _path(f"line-{style}", points, across, up) + markers


def _path(classes: str, points: list[tuple[float, float]], across: Axis, up: Axis) -> Markup:
    placed = " ".join("{:.1f},{:.1f}".format(*_place(x, y, across, up)) for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(classes, placed)


def _place(x: float, y: float, across: Axis, up: Axis) -> tuple[float, float]:
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return LEFT + across.share(x) * plot_width, TOP + (1 - up.share(y)) * plot_height


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most two points for each bucket: its smallest and its largest, in their order."""
    size = math.ceil(len(points) / MAX_BUCKETS)
    if size <= 2:
        return points
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        kept += sorted({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])})
    return kept


def _window(count: int) -> int:
    return max(5, count // 40)


def _smoothed(points: list[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    keep = 1 - 2 / (window + 1)
    total = weight = 0.0
    averages = []
    for step, value in points:
        # Divided by the weights so far, so that the first averages are not drawn towards zero.
        total, weight = keep * total + value, keep * weight + 1
        averages.append((step, total / weight))
    return averages


def _grid(across: Axis, up: Axis) -> Markup:
    shapes = Markup("")
    for tick in up.ticks:
        _, y = _place(across.low, tick, across, up)
        shapes += Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
            '<text class="end" x="{}" y="{:.1f}">{}</text>'
        ).format(LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 4, format_value(tick))
    for tick in across.ticks:
        x, _ = _place(tick, up.low, across, up)
        shapes += Markup('<text class="middle" x="{:.1f}" y="{}">{}</text>').format(
            x, HEIGHT - BOTTOM + 17, format_step(tick)
        )
    return shapes + Markup('<text class="middle" x="{}" y="{}">step</text>').format(
        LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 4
    )
