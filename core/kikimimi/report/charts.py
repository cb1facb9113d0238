"""Charts of the pages, but for those of costs: curves, bars, dots and matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from kikimimi.console.terminal import visible
from kikimimi.console.words import counted, format_value, round_size
from kikimimi.inspect.distribution import Distribution
from kikimimi.report.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LOG_FROM,
    NAMES,
    RIGHT,
    ROW,
    TOP,
    WIDTH,
    cut_name,
    format_step,
    new_figure,
    page_svg,
    plot_axes,
    round_ticks,
    set_steps,
    set_values,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE, GAP, PANEL_TITLE = 980, 30, 22  # pixels: width of a chart with panels; between them; height of a name
STYLES = 4  # curves or systems that charts of a run show: more are hard to tell apart
MOST_STYLES = 8  # line styles that the style sheet defines: line-0 ... line-7
SMOOTH_FROM = 40  # points; shorter curves are drawn with markers instead
DOT = 9  # pixels between dots of a row
COLOURS = ("#004e7a", "#f3f3f0", "#9e3c00")  # least, zero, most; the same in both schemes


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values logged over the steps of a run."""

    name: str
    """What the legend calls it."""
    points: Sequence[tuple[float, float]]
    """(step, value) in the order of the steps."""


@dataclass(frozen=True)
class Chart:
    """A drawn chart.

    Attributes:
        title: What the values are, and the scale where it is logarithmic.
        svg: The drawing; empty where no curve has a finite value.
        keys: The legend: each drawn curve's name, and its last finite value and where that was.
        notes: How to read the drawing, and what could not be drawn.
        wide: Whether it has panels side by side, and takes the width of the page.
    """

    title: str
    svg: Markup
    keys: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    wide: bool = False


def line_chart(curves: Sequence[Curve], *, title: str, exact: bool = False) -> Chart:
    """Draw curves over the step, as `panel_chart` does, in one panel.

    Args:
        curves: Curves, at most `MOST_STYLES`; further ones would repeat a line style.
        title: What the values are.
        exact: The values do not scatter (a schedule): no average, and a linear axis.

    Raises:
        ValueError: Too many curves.
    """
    return panel_chart({"": curves}, title=title, exact=exact)


def panel_chart(panels: Mapping[str, Sequence[Curve]], *, title: str, exact: bool = False) -> Chart:
    """Draw curves over the step, stage beside stage, with one value axis.

    Of more points than pixels the smallest and the largest of each pixel are drawn, so that no spike is lost.
    Curves of at least `SMOOTH_FROM` points are drawn pale, with an exponential average on top, and the value
    axis is logarithmic where all values are positive and the largest is more than `LOG_FROM` times the
    smallest.

    Args:
        panels: Curves of each panel by its name; curves of one name have one line style. There are at most
            `MOST_STYLES` names; further ones would repeat a style.
        title: What the values are.
        exact: The values do not scatter (a schedule): no average, and a linear axis.

    Raises:
        ValueError: Too many curves.
    """
    names = list(dict.fromkeys(curve.name for curves in panels.values() for curve in curves))
    if len(names) > MOST_STYLES or any(len(curves) > MOST_STYLES for curves in panels.values()):
        raise ValueError(
            f"a chart shows at most {MOST_STYLES} curves, not {max(len(names), MOST_STYLES + 1)}"
        )
    notes: list[str] = []
    drawn = {panel: list(_finite(panel, curves, notes)) for panel, curves in panels.items()}
    drawn = {panel: curves for panel, curves in drawn.items() if curves}
    if not drawn:
        return Chart(title, Markup(""), notes=tuple(notes))
    values = [y for curves in drawn.values() for curve in curves for _, y in curve.points]
    log = not exact and min(values) > 0 and max(values) > LOG_FROM * min(values)
    words: dict[str, list[str]] = {}
    windows: set[int] = set()
    several = len(drawn) > 1
    whole, top = (WIDE if several else WIDTH), TOP + (PANEL_TITLE if several else 0)
    width = (whole - LEFT - RIGHT - GAP * (len(drawn) - 1)) / len(drawn)
    with new_figure(HEIGHT + top - TOP, whole) as figure:
        for number, (panel, curves) in enumerate(drawn.items()):
            axes = plot_axes(figure, LEFT + number * (width + GAP), top, width, HEIGHT - TOP - BOTTOM)
            set_values(axes, min(values), max(values), log=log)
            if number:
                axes.set_yticklabels([])
            if several:
                axes.set_title("-", fontsize=13, pad=8, gid="panel")
                words.setdefault("panel", []).append(panel)
            steps = [x for curve in curves for x, _ in curve.points]
            set_steps(axes, min(steps), max(steps), "step", nbins=5 if width > 200 else 2)
            for curve in curves:
                _draw(axes, curve, f"line-{names.index(curve.name)}", exact, words, windows)
        said = [
            f"{_in(panel, curve.name)} from {format_value(curve.points[0][1])} "
            f"to {format_value(curve.points[-1][1])}"
            for panel, curves in drawn.items()
            for curve in curves
        ]
        svg = page_svg(figure, f"{title}: {'; '.join(said)}", words)
    if windows:
        spans = " or ".join(map(str, sorted(windows)))
        notes.insert(0, f"Pale: as logged. Strong: exponential average over {spans} points.")
    shown = f"{title} (log scale)" if log else title
    return Chart(shown, svg, tuple(_keys(names, drawn)), tuple(notes), wide=several)


def _finite(panel: str, curves: Sequence[Curve], notes: list[str]) -> Iterator[Curve]:
    """Yield what can be drawn of curves; note what cannot."""
    for curve in curves:
        points = [(x, y) for x, y in curve.points if math.isfinite(y)]
        if lost := len(curve.points) - len(points):
            said = f"{lost} of {len(curve.points)} values are not finite and not drawn"
            notes.append(f"{_in(panel, curve.name)}: {said}")
        if points:
            yield Curve(name=curve.name, points=points)


def _draw(
    axes: Axes, curve: Curve, line: str, exact: bool, words: dict[str, list[str]], windows: set[int]
) -> None:
    """Draw a curve; note what its points say, and over how many it was averaged."""
    points = list(curve.points)
    columns = zip(*points, strict=True)
    if len(points) >= SMOOTH_FROM and not exact:
        windows.add(window := max(5, len(points) // 40))
        axes.plot(*columns, gid=f"raw {line}", clip_on=False)
        columns = zip(*_smoothed(points, window), strict=True)
    marked = f"mark {line}"
    if len(points) < SMOOTH_FROM:
        axes.plot(*zip(*points, strict=True), "o", gid=marked, clip_on=False, zorder=3)
        words.setdefault(marked, []).extend(f"{format_value(y)} at step {format_step(x)}" for x, y in points)
    axes.plot(*columns, gid=line, clip_on=False)


def _in(panel: str, name: str) -> str:
    return f"{panel}: {name}" if panel else name


def _keys(names: Sequence[str], drawn: Mapping[str, Sequence[Curve]]) -> Iterator[tuple[str, str]]:
    """Yield the legend: each curve's last value in each panel."""
    for name in names:
        own = [(panel, curve) for panel, curves in drawn.items() for curve in curves if curve.name == name]
        ends = {panel: curve.points[-1] for panel, curve in own}
        if len(drawn) > 1:
            yield name, ", ".join(f"{panel} {format_value(y)}" for panel, (_, y) in ends.items())
        else:
            yield from ((name, f"{format_value(y)} at step {format_step(x)}") for x, y in ends.values())


def histogram(spread: Distribution, *, title: str, of: str) -> Chart:
    """Draw how a quantity is spread, one bar for each bin."""
    bins = range(len(spread.counts))
    said = [f"{spread.label(n)} {spread.unit}: {counted(count, of)}" for n, count in enumerate(spread.counts)]
    edges = spread.edges[:-1] if spread.beyond else spread.edges
    size = round_size((edges[-1] - edges[0]) / 6)  # of about six edges that are written below the bars
    written = [n for n, edge in enumerate(edges) if abs(edge / size - round(edge / size)) < 1e-6]
    with new_figure(HEIGHT) as figure:
        axes = plot_axes(figure, LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
        set_values(axes, 0, max(spread.counts), whole=True)
        for number, count in enumerate(spread.counts):
            beyond = spread.beyond and number == bins[-1]
            axes.bar(number + 0.5, count, 0.92, gid="count beyond" if beyond else "count")
        # The whole height of a bin shows its figures, however low the bar is.
        axes.bar([n + 0.5 for n in bins], axes.get_ylim()[1], 1, gid="reach")
        axes.set_xlim(0, len(bins))
        axes.set_xticks(written, labels=[format_value(edges[n]) for n in written])
        axes.set_xlabel(spread.unit)
        label = f"{title}: {counted(spread.count, of)}, median {format_value(spread.median)} {spread.unit}"
        svg = page_svg(figure, label, {"reach": said})
    low, high = map(format_value, spread.edges[-2:])
    note = f"The pale bar holds whatever lies from {low} up to {high} {spread.unit}."
    return Chart(title, svg, notes=(note,) if spread.beyond else ())


def dot_chart(
    rows: Sequence[str],
    systems: Mapping[str, Sequence[tuple[float, float, float] | None]],
    *,
    title: str,
    unit: str,
    room: int = NAMES,
) -> Chart:
    """Draw values with their intervals, one row of dots for each name.

    Args:
        rows: The names, from above.
        systems: The value of each row and the ends of its interval, by system, at most `MOST_STYLES`; None
            where there is no value.
        title: What the values are.
        unit: Their unit.
        room: Width of the names [pixels].

    Raises:
        ValueError: Too many systems.
    """
    if len(systems) > MOST_STYLES:
        raise ValueError(f"a chart shows at most {MOST_STYLES} systems, not {len(systems)}")
    height = max(ROW, DOT * len(systems) + 4) * len(rows)
    values = [number for dots in systems.values() for dot in dots if dot is not None for number in dot]
    words: dict[str, list[str]] = {"end": [cut_name(visible(name), room // 10) for name in rows]}
    with new_figure(TOP + height + BOTTOM) as figure:
        axes = plot_axes(figure, room, TOP, WIDTH - room - RIGHT, height)
        low, high = min(values), max(values)
        ticks = round_ticks(0.0 if 0 <= low < 0.5 * high else low, high)
        axes.set_xlim(ticks[0], ticks[-1])
        axes.set_xticks(ticks, labels=[format_value(tick) for tick in ticks])
        axes.set_ylim(len(rows), 0)
        axes.set_yticks([row + 0.5 for row in range(len(rows))], labels=["-"] * len(rows))
        axes.set_xlabel(unit)
        for tick in ticks:
            axes.axvline(tick, gid="grid", zorder=0)
        for style, (system, dots) in enumerate(systems.items()):
            for row, dot in enumerate(dots):
                if dot is not None:
                    place = row + (style + 1) / (len(systems) + 1)
                    axes.plot(dot[1:], [place, place], gid=f"line-{style}", clip_on=False)
                    axes.plot([dot[0]], [place], "o", gid=f"mark line-{style}", clip_on=False, zorder=3)
                    said = f"{system}, {rows[row]}: {format_value(dot[0])} {unit}".rstrip()
                    words.setdefault(f"mark line-{style}", []).append(said)
        svg = page_svg(figure, f"{title}: {len(rows)} rows, {', '.join(systems)}", words)
    keys = tuple((name, "") for name in systems)
    return Chart(title, svg, keys, ("Lines: 95 % intervals by the bootstrap.",))


def heat_map(values: Sequence[Sequence[float]], rows: Sequence[str], *, title: str, across: str) -> Chart:
    """Draw a matrix, one row of cells for each name; a dot marks the largest value of each row.

    Colours go from blue through white, which is 0, to orange; the ends are the largest absolute value.

    Args:
        values: (rows, columns), at least one of each.
        rows: The names.
        title: What the values are.
        across: What the columns are.
    """
    from matplotlib.colors import LinearSegmentedColormap

    columns, height, width = len(values[0]), ROW * len(rows), WIDTH - NAMES - RIGHT
    least, most = min(map(min, values)), max(map(max, values))
    end = max(abs(least), abs(most)) or 1.0
    best = [max(range(columns), key=row.__getitem__) for row in values]
    middles = [number + 0.5 for number in range(len(rows))]
    colours = LinearSegmentedColormap.from_list("", COLOURS, N=513)  # odd: one of them is that of zero
    with new_figure(TOP + height + BOTTOM + 34) as figure:
        axes = plot_axes(figure, NAMES, TOP, width, height)
        strip = plot_axes(figure, NAMES + width / 4, TOP + height + BOTTOM + 8, width / 2, 8)
        legend = [[end * (cell / 32 - 1) for cell in range(65)]]
        for place, cells, edges in (
            (axes, values, (0, columns, len(rows), 0)),
            (strip, legend, (-end, end, 1, 0)),
        ):
            image = place.imshow(
                cells, colours, aspect="auto", interpolation="none", extent=edges, gid="cells"
            )
            image.set_clim(-end, end)
        axes.plot([column + 0.5 for column in best], middles, "o", gid="peak", clip_on=False)
        axes.set_yticks(middles, labels=["-"] * len(rows))
        set_steps(axes, 0, columns, across)
        strip.set_yticks([])
        strip.set_xticks([-end, 0, end], labels=[format_value(round(n, 2)) for n in (-end, 0, end)])
        peaks = zip(rows, values, best, strict=True)
        words = {
            "end": [_short(name) for name in rows],
            "peak": [f"{name}: {format_value(row[column])} at {column}" for name, row, column in peaks],
        }
        spread = f"from {format_value(least)} to {format_value(most)}"
        svg = page_svg(figure, f"{title}: {len(rows)} by {columns}, {spread}", words)
    return Chart(title, svg)


def bar(parts: Mapping[str, float], whole: float) -> Markup:
    """Draw parts of a whole side by side, as one bar.

    Args:
        parts: How large each is, by its class of the style sheet.
        whole: What fills the width.
    """
    shapes, left = Markup(""), 0.0
    for name, part in parts.items():
        width = 100 * part / whole if whole else 0.0
        shapes += Markup('<rect class="{}" x="{:.2f}" y="0" width="{:.2f}" height="10"/>').format(
            name, left, width
        )
        left += width
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
    ).format(shapes)


def _smoothed(points: list[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    keep = 1 - 2 / (window + 1)
    total = weight = 0.0
    averages = []
    for step, value in points:
        # Divided by the weights so far, so that the first averages are not drawn towards zero.
        total, weight = keep * total + value, keep * weight + 1
        averages.append((step, total / weight))
    return averages


def _short(name: str) -> str:
    return cut_name(visible(name.replace("\n", "\u21b5").replace(" ", "\u2423")))
