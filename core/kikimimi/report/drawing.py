"""How charts are drawn: by matplotlib, and put into the page as SVG that the page's style sheet colours.

What is drawn is named after a class of the style sheet (matplotlib's `gid`), and nothing else gets into the
page: no colours, ids or fonts. So charts follow the light or dark scheme and never disturb each other.
matplotlib is imported when the first chart is drawn.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup, escape

from kikimimi.console.words import format_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 480, 270  # a phone shows it at about 0.75, which leaves the 13-pixel text readable
LEFT, RIGHT, TOP, BOTTOM = 58, 22, 10, 38  # of the plot in it
LOG_FROM = 10.0  # largest over smallest value
ROW, NAMES = 16, 92  # pixels: height of a heat map's row, which leaves its name readable; width of the names
SHOWN = 9  # characters of a name that fit there, if none is wide
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


def format_step(step: float) -> str:
    """Write a whole number in few characters: ``9000``, ``12k``, ``1.5M``."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= 10_000 and abs(step) >= size:
            return f"{step / size:.4g}{letter}"
    return f"{step:g}"


def cut_name(shown: str, most: int = SHOWN) -> str:
    """Return a name of at most so many characters."""
    return shown if len(shown) <= most else f"{shown[: most - 1]}\u2026"


@contextmanager
def new_figure(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """Give an empty figure, and matplotlib's own settings while it is drawn, whatever the user's are."""
    cache = os.environ.get("KIKIMIMI_CACHE")
    if cache and not os.access(os.path.expanduser("~"), os.W_OK):
        # Where it keeps its list of fonts; else it would complain, and make the list anew each time.
        os.environ.setdefault("MPLCONFIGDIR", os.path.join(cache, "matplotlib"))
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _SETTINGS]):
        yield Figure(figsize=(width / 72, height / 72))  # a pixel is 1/72 inch


def plot_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at a place in pixels, their ticks without marks."""
    across, whole = figure.get_figwidth() * 72, figure.get_figheight() * 72
    axes = figure.add_axes((left / across, 1 - (top + height) / whole, width / across, height / whole))
    axes.tick_params(length=0, pad=6)
    return axes


def set_values(axes: Axes, low: float, high: float, *, log: bool = False, whole: bool = False) -> None:
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
        ticks = round_ticks(0.0 if 0 <= low < 0.5 * high else low, high, whole=whole)
        low, high = ticks[0], ticks[-1]
    axes.set_ylim(low, high)
    axes.set_yticks(ticks, labels=[(format_step if whole else format_value)(tick) for tick in ticks])
    for tick in ticks:
        axes.axhline(tick, gid="grid", zorder=0)


def set_steps(axes: Axes, low: float, high: float, name: str, *, nbins: int = 5) -> None:
    """Make an axis of whole numbers that ends where they do."""
    low, high = _apart(low, high)
    inside = [tick for tick in round_ticks(low, high, whole=True, nbins=nbins) if low <= tick <= high]
    ticks = [tick for tick in inside if tick == int(tick)]
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, labels=[format_step(tick) for tick in ticks])
    axes.set_xlabel(name)


def round_ticks(low: float, high: float, *, whole: bool = False, nbins: int = 5) -> list[float]:
    """Return about five round numbers, the first not above `low`, the last not below `high`."""
    from matplotlib.ticker import MaxNLocator

    locator = MaxNLocator(nbins=nbins, steps=[1, 2, 5, 10], integer=whole)
    return list(map(float, locator.tick_values(*_apart(low, high))))


def _apart(low: float, high: float) -> tuple[float, float]:
    margin = (abs(low) * 0.1 or 1.0) if low == high else 0.0
    return low - margin, high + margin


def page_svg(figure: Figure, label: str, words: Mapping[str, Sequence[str]]) -> Markup:
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
