"""A matrix as coloured cells: a PNG inside an SVG, with its rows named, in the look of the charts."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

from markupsafe import Markup

from kikimimi.console.words import format_value
from kikimimi.report.axis import format_step, linear_axis
from kikimimi.report.chart import BOTTOM, RIGHT, TOP, WIDTH, Chart

ROW = 16  # height of a row, which leaves its 13-pixel name readable
LABEL = 92  # pixels left of the cells
SHOWN = 9  # characters of a name that fit there, if none is wide
_LEGEND = 34
_COLOURS = ((0, 78, 122), (243, 243, 240), (158, 60, 0))  # least, zero, most
_STRIP = 64  # cells of the legend


def heat_map(values: Sequence[Sequence[float]], rows: Sequence[str], *, title: str, across: str) -> Chart:
    """Draw a matrix, one row of cells for each name; a dot marks the largest value of each row.

    Colours go from blue through white, which is 0, to orange; the ends are the largest absolute value.

    Args:
        values: (rows, columns), at least one of each.
        rows: The names.
        title: What the values are.
        across: What the columns are.
    """
    columns = len(values[0])
    most = max(abs(value) for row in values for value in row) or 1.0
    width, height = WIDTH - LABEL - RIGHT, ROW * len(rows)
    shapes = [_image(LABEL, TOP, width, height, [[_colour(v / most) for v in row] for row in values])]
    for number, (name, row) in enumerate(zip(rows, values, strict=True)):
        middle = TOP + ROW * (number + 0.5)
        best = max(range(columns), key=lambda column: row[column])
        shapes.append(
            Markup(
                '<text class="end" x="{}" y="{:.1f}">{}</text>'
                '<circle class="peak" cx="{:.1f}" cy="{:.1f}" r="2.5"><title>{}: {} at {}</title></circle>'
            ).format(
                LABEL - 6,
                middle + 4.5,
                _short(name),
                LABEL + (best + 0.5) / columns * width,
                middle,
                name,
                format_value(row[best]),
                best,
            )
        )
    bottom = TOP + height
    for tick in linear_axis(0, columns, tight=True).ticks:
        if tick == int(tick):
            shapes.append(
                Markup('<text class="middle" x="{:.1f}" y="{}">{}</text>').format(
                    LABEL + tick / columns * width, bottom + 17, format_step(tick)
                )
            )
    shapes.append(
        Markup('<text class="middle" x="{}" y="{}">{}</text>').format(LABEL + width / 2, bottom + 34, across)
    )
    shapes.append(_legend(most, bottom + BOTTOM + 8, width))
    label = f"{title}: {len(rows)} by {columns}, from {format_value(min(map(min, values)))} to "
    svg = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH,
        bottom + BOTTOM + _LEGEND,
        label + format_value(max(map(max, values))),
        Markup("").join(shapes),
    )
    return Chart(title, svg, (), ())


def _short(name: str) -> str:
    shown = name.replace("\n", "\u21b5").replace(" ", "\u2423")
    return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 1]}\u2026"


def _legend(most: float, top: float, width: float) -> Markup:
    strip = [[_colour(2 * cell / (_STRIP - 1) - 1) for cell in range(_STRIP)]]
    left, size = LABEL + width / 4, width / 2
    ends = Markup("")
    for share, value in ((0, -most), (0.5, 0.0), (1, most)):
        ends += Markup('<text class="middle" x="{:.1f}" y="{:.1f}">{}</text>').format(
            left + share * size, top + 22, format_value(round(value, 2))
        )
    return _image(left, top, size, 8, strip) + ends


def _colour(share: float) -> tuple[int, int, int]:
    """Return the colour of a value from -1 to 1."""
    end = _COLOURS[0] if share < 0 else _COLOURS[2]
    zero = _COLOURS[1]
    red, green, blue = (round(a + (b - a) * min(abs(share), 1)) for a, b in zip(zero, end, strict=True))
    return red, green, blue


def _image(
    x: float, y: float, width: float, height: float, cells: list[list[tuple[int, int, int]]]
) -> Markup:
    data = base64.b64encode(png(cells)).decode("ascii")
    return Markup(
        '<image class="cells" x="{}" y="{}" width="{}" height="{}" preserveAspectRatio="none" '
        'href="data:image/png;base64,{}"/>'
    ).format(x, y, width, height, data)


def png(cells: Sequence[Sequence[tuple[int, int, int]]]) -> bytes:
    """Return rows of red, green and blue (0 to 255) as a PNG file."""
    lines = b"".join(b"\0" + bytes(value for cell in row for value in cell) for row in cells)
    header = struct.pack(">IIBBBBB", len(cells[0]), len(cells), 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
