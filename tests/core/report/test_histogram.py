from __future__ import annotations

import re

import numpy as np
import pytest

from kikimimi.inspect.distribution import distribution
from kikimimi.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from kikimimi.report.histogram import histogram


def bars(svg: str) -> list[tuple[str, float, float, float, float]]:
    found = re.findall(
        r'<rect class="(count[^"]*)" x="([^"]+)" y="([^"]+)" width="([^"]+)" height="([^"]+)"/>', svg
    )
    return [(name, float(x), float(y), float(width), float(height)) for name, x, y, width, height in found]


def test_heights_are_counts() -> None:
    spread = distribution(np.array([1, 2, 2, 2, 2, 4]), "characters", whole=True)
    assert spread is not None
    chart = histogram(spread, title="Text", of="records")
    drawn = bars(chart.svg)
    bottom, scale = HEIGHT - BOTTOM, (HEIGHT - TOP - BOTTOM) / 4
    assert [name for name, *_ in drawn] == ["count"] * 4
    assert [height for *_, height in drawn] == pytest.approx([scale, 4 * scale, 0, scale], abs=0.1)
    for _, x, y, width, height in drawn:
        assert y + height == pytest.approx(bottom, abs=0.1)
        assert LEFT <= x < x + width <= WIDTH - RIGHT
    titles = re.findall("<title>([^<]*)</title>", chart.svg)
    assert titles == [f"{n} - {n + 1} characters: {count} records" for n, count in enumerate([1, 4, 0, 1], 1)]
    assert re.findall('<text class="middle"[^>]*>([^<]*)<', chart.svg) == [
        "1",
        "2",
        "3",
        "4",
        "5",
        "characters",
    ]
    assert re.findall('<text class="end"[^>]*>([^<]*)<', chart.svg) == ["0", "1", "2", "3", "4"]
    assert 'aria-label="Text: 6 records, median 2 characters"' in chart.svg
    assert (chart.title, chart.notes) == ("Text", ())


def test_what_lies_beyond_is_pale_and_told() -> None:
    spread = distribution(np.concatenate([np.linspace(2, 10, 997), np.full(3, 3600.0)]), "s")
    assert spread is not None
    chart = histogram(spread, title="Audio", of="clips")
    assert [name for name, *_ in bars(chart.svg)][-2:] == ["count", "count beyond"]
    assert chart.notes == ("The pale bar holds whatever lies from 10 up to 3600 s.",)
    # The axis ends where the bins of one width end.
    assert re.findall('<text class="middle"[^>]*>([^<]*)<', chart.svg) == ["2", "4", "6", "8", "10", "s"]


def test_few_are_not_counted_in_halves() -> None:
    spread = distribution(np.array([3.0]), "s")
    assert spread is not None
    assert re.findall('<text class="end"[^>]*>([^<]*)<', histogram(spread, title="a", of="b").svg) == [
        "0",
        "1",
    ]
