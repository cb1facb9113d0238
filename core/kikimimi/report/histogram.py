"""Histograms as inline SVG, in the look of the line charts."""

from __future__ import annotations

from markupsafe import Markup

from kikimimi.console.words import format_value, round_size
from kikimimi.inspect.distribution import Distribution
from kikimimi.report.axis import Axis, format_step, value_axis
from kikimimi.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart

_LABELS = 6  # at most about so many edges are written below the bars


def histogram(spread: Distribution, *, title: str, of: str) -> Chart:
    """Draw how a quantity is spread, one bar for each bin.

    Args:
        spread: The quantity.
        title: What it is.
        of: What is counted (``clips``).
    """
    up = value_axis(0, max(spread.counts), log=False)
    width = (WIDTH - LEFT - RIGHT) / len(spread.counts)
    shapes = [_grid(up)]
    for number, count in enumerate(spread.counts):
        top = _height(up, count)
        beyond = spread.beyond and number == len(spread.counts) - 1
        shapes.append(
            Markup(
                '<g><rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
                '<rect class="reach" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>'
                "<title>{} {}: {:,} {}</title></g>"
            ).format(
                "count beyond" if beyond else "count",
                LEFT + number * width + 0.5,
                top,
                max(width - 1, 0.5),
                HEIGHT - BOTTOM - top,
                LEFT + number * width,
                TOP,
                width,
                HEIGHT - TOP - BOTTOM,
                spread.label(number),
                spread.unit,
                count,
                of,
            )
        )
    shapes.append(_edges(spread, width))
    label = f"{title}: {spread.count} {of}, median {format_value(spread.median)} {spread.unit}"
    svg = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(shapes)
    )
    notes = []
    if spread.beyond:
        low, high = map(format_value, spread.edges[-2:])
        notes.append(f"The pale bar holds whatever lies from {low} up to {high} {spread.unit}.")
    return Chart(title, svg, (), tuple(notes))


def _height(up: Axis, count: float) -> float:
    return TOP + (1 - up.share(count)) * (HEIGHT - TOP - BOTTOM)


def _grid(up: Axis) -> Markup:
    shapes = Markup("")
    for tick in up.ticks:
        if tick != int(tick):
            continue  # nothing is counted in halves
        y = _height(up, tick)
        shapes += Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
            '<text class="end" x="{}" y="{:.1f}">{}</text>'
        ).format(LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 4, format_step(tick))
    return shapes


def _edges(spread: Distribution, width: float) -> Markup:
    edges = spread.edges[:-1] if spread.beyond else spread.edges
    step = round_size((edges[-1] - edges[0]) / _LABELS)
    shapes = Markup("")
    for number, edge in enumerate(edges):
        if abs(edge / step - round(edge / step)) < 1e-6:
            shapes += Markup('<text class="middle" x="{:.1f}" y="{}">{}</text>').format(
                LEFT + number * width, HEIGHT - BOTTOM + 17, format_value(edge)
            )
    return shapes + Markup('<text class="middle" x="{}" y="{}">{}</text>').format(
        LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 4, spread.unit
    )
