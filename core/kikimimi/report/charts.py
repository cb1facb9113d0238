"""Charts of the pages: drawn by matplotlib, and put into the page as SVG that the page's style sheet colours.

What is drawn is named after a class of the style sheet (matplotlib's `gid`), and nothing else gets into the
page: no colours, ids or fonts. So charts follow the light or dark scheme and never disturb each other.
matplotlib is imported when the first chart is drawn.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup, escape

from kikimimi.console.terminal import visible
from kikimimi.console.words import counted, format_value, round_size
from kikimimi.inspect.distribution import Distribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 480, 270  # a phone shows it at about 0.75, which leaves the 13-pixel text readable
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 10, 38  # of the plot in it
WIDE, GAP, PANEL_TITLE = 980, 30, 22  # pixels: width of a chart with panels; between them; height of a name
STYLES = 4  # curves or systems that charts of a run show: more are hard to tell apart
MOST_STYLES = 8  # line styles that the style sheet defines: line-0 ... line-7
SMOOTH_FROM = 40  # points; shorter curves are drawn with markers instead
LOG_FROM = 10.0  # largest over smallest value
ROW, NAMES = 16, 92  # pixels: height of a heat map's row, which leaves its name readable; width of the names
DOT = 9  # pixels between dots of a row
SHOWN = 9  # characters of a name that fit there, if none is wide
COLOURS = ("#004e7a", "#f3f3f0", "#9e3c00")  # least, zero, most; the same in both schemes
_PLACES = {
    "path": ("d",),
    "use": ("x", "y"),
    "text": ("x", "y"),
    "image": ("href", "width", "height", "transform"),
}
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text, in the browser's fonts
    "path.simplify_threshold": 1.0,  # of many points in a pixel, the least and the most are kept
    "font.size": 13,
}


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
    with _figure(HEIGHT + top - TOP, whole) as figure:
        for number, (panel, curves) in enumerate(drawn.items()):
            axes = _axes(figure, LEFT + number * (width + GAP), top, width, HEIGHT - TOP - BOTTOM)
            _set_values(axes, min(values), max(values), log=log)
            if number:
                axes.set_yticklabels([])
            if several:
                axes.set_title("-", fontsize=13, pad=8, gid="panel")
                words.setdefault("panel", []).append(panel)
            steps = [x for curve in curves for x, _ in curve.points]
            _set_steps(axes, min(steps), max(steps), "step", nbins=5 if width > 200 else 2)
            for curve in curves:
                _draw(axes, curve, f"line-{names.index(curve.name)}", exact, words, windows)
        said = [
            f"{_in(panel, curve.name)} from {format_value(curve.points[0][1])} "
            f"to {format_value(curve.points[-1][1])}"
            for panel, curves in drawn.items()
            for curve in curves
        ]
        svg = _svg(figure, f"{title}: {'; '.join(said)}", words)
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
    with _figure(HEIGHT) as figure:
        axes = _axes(figure, LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
        _set_values(axes, 0, max(spread.counts), whole=True)
        for number, count in enumerate(spread.counts):
            beyond = spread.beyond and number == bins[-1]
            axes.bar(number + 0.5, count, 0.92, gid="count beyond" if beyond else "count")
        # The whole height of a bin shows its figures, however low the bar is.
        axes.bar([n + 0.5 for n in bins], axes.get_ylim()[1], 1, gid="reach")
        axes.set_xlim(0, len(bins))
        axes.set_xticks(written, labels=[format_value(edges[n]) for n in written])
        axes.set_xlabel(spread.unit)
        label = f"{title}: {counted(spread.count, of)}, median {format_value(spread.median)} {spread.unit}"
        svg = _svg(figure, label, {"reach": said})
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
    words: dict[str, list[str]] = {"end": [_cut(visible(name), room // 10) for name in rows]}
    with _figure(TOP + height + BOTTOM) as figure:
        axes = _axes(figure, room, TOP, WIDTH - room - RIGHT, height)
        low, high = min(values), max(values)
        ticks = _ticks(0.0 if 0 <= low < 0.5 * high else low, high)
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
        svg = _svg(figure, f"{title}: {len(rows)} rows, {', '.join(systems)}", words)
    keys = tuple((name, "") for name in systems)
    return Chart(title, svg, keys, ("Lines: 95 % intervals by the bootstrap.",))


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
    with _figure(HEIGHT) as figure:
        axes = _axes(figure, LEFT, TOP + 8, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM - 8)
        _set_values(axes, min(one.low for one in points), max(one.high for one in points))
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
            ticks = [tick for tick in _ticks(low, high, nbins=4) if low <= tick <= high]
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
        svg = _svg(figure, f"{title}: {len(points)} points, {len(front)} on the front", words)
    on_front = "; ".join(f"{one.mark}: {one.name}" if one.mark else one.name for one in front)
    notes = (f"Nothing that costs as little is as good as, from the cheapest: {on_front}.",)
    return Chart(f"{title} (log scale of the cost)" if log else title, svg, notes=notes)


def _pairwise(front: Sequence[CostPoint]) -> Iterator[tuple[CostPoint, CostPoint]]:
    yield from zip(front, [*front[1:], front[-1]], strict=True)


def _stairs(point: CostPoint, after: CostPoint) -> Iterator[tuple[float, float]]:
    yield point.cost, point.value
    yield after.cost, point.value


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
    with _figure(TOP + height + BOTTOM + 34) as figure:
        axes = _axes(figure, NAMES, TOP, width, height)
        strip = _axes(figure, NAMES + width / 4, TOP + height + BOTTOM + 8, width / 2, 8)
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
        _set_steps(axes, 0, columns, across)
        strip.set_yticks([])
        strip.set_xticks([-end, 0, end], labels=[format_value(round(n, 2)) for n in (-end, 0, end)])
        peaks = zip(rows, values, best, strict=True)
        words = {
            "end": [_short(name) for name in rows],
            "peak": [f"{name}: {format_value(row[column])} at {column}" for name, row, column in peaks],
        }
        spread = f"from {format_value(least)} to {format_value(most)}"
        svg = _svg(figure, f"{title}: {len(rows)} by {columns}, {spread}", words)
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


def format_step(step: float) -> str:
    """Write a whole number in few characters: ``9000``, ``12k``, ``1.5M``."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= 10_000 and abs(step) >= size:
            return f"{step / size:.4g}{letter}"
    return f"{step:g}"


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
    return _cut(visible(name.replace("\n", "\u21b5").replace(" ", "\u2423")))


def _cut(shown: str, most: int = SHOWN) -> str:
    return shown if len(shown) <= most else f"{shown[: most - 1]}\u2026"


@contextmanager
def _figure(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """Give an empty figure, and matplotlib's own settings while it is drawn, whatever the user's are."""
    cache = os.environ.get("KIKIMIMI_CACHE")
    if cache and not os.access(os.path.expanduser("~"), os.W_OK):
        # Where it keeps its list of fonts; else it would complain, and make the list anew each time.
        os.environ.setdefault("MPLCONFIGDIR", os.path.join(cache, "matplotlib"))
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _SETTINGS]):
        yield Figure(figsize=(width / 72, height / 72))  # a pixel is 1/72 inch


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at a place in pixels, their ticks without marks."""
    across, whole = figure.get_figwidth() * 72, figure.get_figheight() * 72
    axes = figure.add_axes((left / across, 1 - (top + height) / whole, width / across, height / whole))
    axes.tick_params(length=0, pad=6)
    return axes


def _set_values(axes: Axes, low: float, high: float, *, log: bool = False, whole: bool = False) -> None:
    """Make a value axis with lines across the plot; a linear one ends at ticks, and begins at a near 0."""
    from matplotlib.ticker import LogLocator

    if log:
        axes.set_yscale("log")
        axes.minorticks_off()
        # The 1-2-5 series between the decades, where there are few of them.
        locator = LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,), numticks=12)
        low, high = low / (high / low) ** 0.04, high * (high / low) ** 0.04
        ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
    else:
        ticks = _ticks(0.0 if 0 <= low < 0.5 * high else low, high, whole=whole)
        low, high = ticks[0], ticks[-1]
    axes.set_ylim(low, high)
    axes.set_yticks(ticks, labels=[(format_step if whole else format_value)(tick) for tick in ticks])
    for tick in ticks:
        axes.axhline(tick, gid="grid", zorder=0)


def _set_steps(axes: Axes, low: float, high: float, name: str, *, nbins: int = 5) -> None:
    """Make an axis of whole numbers that ends where they do."""
    low, high = _apart(low, high)
    inside = [tick for tick in _ticks(low, high, whole=True, nbins=nbins) if low <= tick <= high]
    ticks = [tick for tick in inside if tick == int(tick)]
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, labels=[format_step(tick) for tick in ticks])
    axes.set_xlabel(name)


def _ticks(low: float, high: float, *, whole: bool = False, nbins: int = 5) -> list[float]:
    """Return about five round numbers, the first not above `low`, the last not below `high`."""
    from matplotlib.ticker import MaxNLocator

    locator = MaxNLocator(nbins=nbins, steps=[1, 2, 5, 10], integer=whole)
    return list(map(float, locator.tick_values(*_apart(low, high))))


def _apart(low: float, high: float) -> tuple[float, float]:
    margin = (abs(low) * 0.1 or 1.0) if low == high else 0.0
    return low - margin, high + margin


def _svg(figure: Figure, label: str, words: Mapping[str, Sequence[str]]) -> Markup:
    """Return what is named, and all texts.

    Args:
        figure: What was drawn.
        label: What it says, for those who do not see it.
        words: What shapes of each class say where they are pointed at; and what stands in place of texts,
            for names that matplotlib's fonts or its markup do not know.
    """
    file = StringIO()
    figure.savefig(file, format="svg")
    root = ElementTree.fromstring(re.sub(r' xmlns(:xlink)?="[^"]*"| xlink:(?=href)', " ", file.getvalue()))
    shapes = Markup("").join(_shapes(root, "", {name: iter(texts) for name, texts in words.items()}))
    return Markup('<svg class="chart" viewBox="{}" role="img" aria-label="{}">{}</svg>').format(
        root.get("viewBox"), label, shapes
    )


def _shapes(parent: ElementTree.Element, name: str, words: Mapping[str, Iterator[str]]) -> Iterator[Markup]:
    for element in parent:
        own, tag, content = element.get("id", name), element.tag, Markup("")
        if tag == "g":
            yield from _shapes(element, own, words)
        if tag == "text":
            at = "end" if "text-anchor: end" in element.get("style", "") else "middle"
            own = name if name == "panel" else at
            content = escape(next(words[own]) if own in words else element.text)
        elif tag not in _PLACES or "_" in own:
            continue  # "patch_1" is matplotlib's own name of what has none of ours
        elif own in words:
            content = Markup("<title>{}</title>").format(next(words[own]))
        places = {key: _rounded(element.get(key, "")) for key in _PLACES[tag]}
        if tag == "use":  # of a marker
            tag, places = "circle", {"cx": places["x"], "cy": places["y"], "r": "3"}
        attributes = Markup(" ").join(Markup('{}="{}"').format(*place) for place in places.items())
        yield Markup('<{} class="{}" {}>{}</{}>').format(tag, own, attributes, content, tag)


def _rounded(places: str) -> str:
    """Return numbers to a tenth of a pixel, and other texts without line breaks."""
    return re.sub(r"\d+\.\d+", lambda n: f"{float(n[0]):.1f}".removesuffix(".0"), places.replace("\n", ""))
