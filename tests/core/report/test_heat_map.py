from __future__ import annotations

import base64
import re
import struct
import zlib

from kikimimi.report.chart import RIGHT, TOP, WIDTH
from kikimimi.report.heat_map import LABEL, ROW, heat_map

VALUES = [[0.0, 0.5, -0.1], [-0.25, -0.2, -0.5]]


def pixels(image: str) -> list[list[tuple[int, ...]]]:
    """Decode a PNG as its specification says, by hand."""
    data = base64.b64decode(image)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        (checksum,) = struct.unpack(">I", data[place + 8 + size : place + 12 + size])
        assert zlib.crc32(kind + body) == checksum
        chunks[kind] = body
        place += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 2)
    lines = zlib.decompress(chunks[b"IDAT"])
    assert len(lines) == height * (1 + 3 * width)
    rows = [lines[i * (1 + 3 * width) :][1 : 1 + 3 * width] for i in range(height)]
    return [[tuple(row[3 * x : 3 * x + 3]) for x in range(width)] for row in rows]


def test_cells_rows_and_peaks() -> None:
    chart = heat_map(VALUES, ["猫", "a long name"], title="Cats", across="audio token")
    images = re.findall(r'href="data:image/png;base64,([^"]+)"', chart.svg)
    cells = pixels(images[0])
    white, orange, blue = (243, 243, 240), (158, 60, 0), (0, 78, 122)
    assert cells[0][:2] == [white, orange]  # 0.5 is the largest absolute value: the strongest colour
    assert cells[1][2] == blue
    assert cells[1][0] == tuple(round((a + b) / 2) for a, b in zip(white, blue, strict=True))
    legend = pixels(images[1])[0]
    assert (legend[0], legend[-1]) == (blue, orange)
    assert re.findall('<text class="end"[^>]*>([^<]*)<', chart.svg) == ["猫", "a␣long␣n…"]
    width = WIDTH - LABEL - RIGHT
    peaks = re.findall(r'<circle class="peak" cx="([^"]+)" cy="([^"]+)"[^>]*><title>([^<]*)<', chart.svg)
    assert [(float(x), float(y)) for x, y, _ in peaks] == [
        (round(LABEL + width / 2, 1), TOP + ROW / 2),
        (round(LABEL + width / 2, 1), TOP + ROW * 1.5),
    ]
    assert [title for *_, title in peaks] == ["猫: 0.5 at 1", "a long name: -0.2 at 1"]
    texts = re.findall('<text class="middle"[^>]*>([^<]*)<', chart.svg)
    assert texts == ["0", "1", "2", "3", "audio token", "-0.5", "0", "0.5"]
    assert 'aria-label="Cats: 2 by 3, from -0.5 to 0.5"' in chart.svg


def test_all_zero_is_white() -> None:
    chart = heat_map([[0.0, 0.0]], ["<b>"], title="None", across="token")
    cells = pixels(re.findall(r"base64,([^\"]+)", chart.svg)[0])
    assert cells == [[(243, 243, 240)] * 2]
    assert "&lt;b&gt;" in chart.svg
