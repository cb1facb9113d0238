from __future__ import annotations

import base64
import io
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from kikimimi.inspect.distribution import distribution
from kikimimi.report import charts
from kikimimi.report.charts import (
    Curve,
    bar,
    dot_chart,
    heat_map,
    histogram,
    line_chart,
    panel_chart,
)
from kikimimi.report.drawing import BOTTOM, HEIGHT, LEFT, NAMES, RIGHT, ROW, TOP, WIDTH
from kikimimi.report.pareto import CostPoint, pareto_chart, pareto_front

Points = list[tuple[float, float]]
PLOT = HEIGHT - TOP - BOTTOM


def paths(svg: Markup, classes: str) -> list[tuple[str, Points]]:
    """Return the lines of some classes, point by point."""
    found = re.findall(rf'<path class="({classes})" d="([^"]+)"', svg)
    pairs = [(name, re.findall(r"(-?[\d.]+) (-?[\d.]+)", drawn)) for name, drawn in found]
    return [(name, [(float(x), float(y)) for x, y in points]) for name, points in pairs]


def lines(svg: Markup) -> list[tuple[str, Points]]:
    return paths(svg, r"(?:raw )?line-\d")


def labels(svg: Markup, side: str) -> list[str]:
    return re.findall(rf'<text class="{side}"[^>]*>([^<]*)</text>', svg)


def titles(svg: Markup) -> list[str]:
    return re.findall("<title>([^<]*)</title>", svg)


def style_sheet(name: str) -> str:
    return (Path(charts.__file__).parent / "templates" / f"{name}.css").read_text(encoding="utf-8")


def test_a_short_curve_has_a_marker_at_each_value() -> None:
    chart = line_chart([Curve(name="validation", points=[(0, 4.0), (50, 3.0), (100, 2.0)])], title="Loss")
    assert chart.title == "Loss"
    assert titles(chart.svg) == ["4 at step 0", "3 at step 50", "2 at step 100"]
    ((classes, points),) = lines(chart.svg)
    assert classes == "line-0"
    assert points == [(LEFT, TOP), ((LEFT + WIDTH - RIGHT) / 2, TOP + PLOT / 2), (WIDTH - RIGHT, TOP + PLOT)]
    marks = re.findall(r'<circle class="mark line-0" cx="([\d.]+)" cy="([\d.]+)"', chart.svg)
    assert [(float(x), float(y)) for x, y in marks] == points
    assert chart.keys == (("validation", "2 at step 100"),)
    assert chart.notes == ()
    assert 'aria-label="Loss: validation from 4 to 2"' in chart.svg


def test_values_stand_where_the_axis_says() -> None:
    """The values of a curve, read off by its ticks, are those that were given."""
    values = [0.31, 0.84, 0.55, 0.62]
    svg = line_chart([Curve(name="a", points=list(enumerate(values)))], title="Loss").svg
    rows = [points[0][1] for _, points in paths(svg, "grid")]
    ticks = [float(label) for label in labels(svg, "end")]
    assert rows == sorted(rows, reverse=True)
    read = np.interp([-y for _, y in lines(svg)[0][1]], [-y for y in rows], ticks)
    assert read == pytest.approx(values, abs=0.001)
    assert [round(x, 1) for x, _ in lines(svg)[0][1]] == [58, 191.3, 324.7, 458]


def test_curves_differ_in_more_than_colour() -> None:
    curves = [Curve(name=f"reward {n}", points=[(0, n), (9, n + 1)]) for n in range(8)]
    chart = line_chart(curves, title="Reward")
    assert [classes for classes, _ in lines(chart.svg)] == [f"line-{n}" for n in range(8)]
    css = style_sheet("report")
    dashes = re.findall(r"^\.line-[1-7] \{.* stroke-dasharray: ([\d ]+);", css, re.MULTILINE)
    assert len(set(dashes)) == 7


def test_a_chart_meets_nothing_of_the_page_but_its_style_sheet() -> None:
    css = style_sheet("report") + style_sheet("stats")
    spread = distribution(np.append(np.linspace(2, 10, 997), 3600.0), "s")
    assert spread is not None
    curves = [Curve(name="a", points=[(n, n + 1.0) for n in range(count)]) for count in (9, 90)]
    drawn = line_chart(curves, title="A"), histogram(spread, title="B", of="clip")
    for chart in (*drawn, heat_map([[1.0]], ["a"], title="C", across="token")):
        assert not re.search(r' id="|style|url\(|#|xmlns|https?:|font|currentcolor', chart.svg)
        start = chart.svg.partition(">")[0]
        assert start.startswith('<svg class="chart" viewBox="0 0 480 ')
        assert " width=" not in start
        classes = {name for names in re.findall(r'class="([^"]+)"', chart.svg) for name in names.split()}
        assert [name for name in classes if f".{name}" not in css] == []
    assert line_chart(curves, title="A") == drawn[0]
    # A colour that stands outside of the two schemes would be seen in one of them only.
    assert not re.search("#[0-9a-f]{3}", re.sub(r"(?s):root \{.*?\}|\.peak \{.*?\}", "", css))


def test_values_over_decades_get_a_log_scale() -> None:
    curve = Curve(name="training", points=[(0, 10.0), (1, 1.0), (2, 0.1), (3, 0.01)])
    chart = line_chart([curve], title="Loss")
    assert chart.title == "Loss (log scale)"
    assert labels(chart.svg, "end") == ["0.01", "0.1", "1", "10"]
    heights = [y for _, y in lines(chart.svg)[0][1]]
    assert heights == pytest.approx([points[0][1] for _, points in paths(chart.svg, "grid")][::-1], abs=0.11)
    assert heights[1] - heights[0] == pytest.approx(heights[3] - heights[2], abs=0.11)
    exact = line_chart([curve], title="Learning rate", exact=True)
    assert exact.title == "Learning rate"
    assert labels(exact.svg, "end") == ["0", "2", "4", "6", "8", "10"]


def test_a_value_that_is_zero_keeps_the_scale_linear() -> None:
    assert line_chart([Curve(name="a", points=[(0, 100.0), (1, 0.0)])], title="Loss").title == "Loss"


def test_a_long_curve_is_smoothed_and_says_so() -> None:
    points = [(step, 2.0 + (-1) ** step) for step in range(400)]
    chart = line_chart([Curve(name="training", points=points)], title="Loss")
    (raw_classes, raw), (classes, smooth) = lines(chart.svg)
    assert (raw_classes, classes) == ("raw line-0", "line-0")
    assert max(y for _, y in raw) - min(y for _, y in raw) == pytest.approx(PLOT, abs=80)
    late = [y for x, y in smooth if x > WIDTH / 2]
    assert max(late) - min(late) < 0.15 * PLOT
    assert chart.notes == ("Pale: as logged. Strong: exponential average over 10 points.",)
    assert chart.keys[0][1] == "1 at step 399"


def test_the_average_of_a_constant_is_the_constant() -> None:
    chart = line_chart([Curve(name="a", points=[(step, 5.0) for step in range(100)])], title="Loss")
    assert {y for _, line in lines(chart.svg) for _, y in line} == {TOP + PLOT / 2}


def test_an_exact_curve_is_not_smoothed() -> None:
    points = [(step, float(step % 2)) for step in range(100)]
    chart = line_chart([Curve(name="adapter", points=points)], title="Learning rate", exact=True)
    assert [classes for classes, _ in lines(chart.svg)] == ["line-0"]
    assert chart.notes == ()


def test_of_many_points_few_are_drawn_and_a_spike_survives() -> None:
    noise = np.random.default_rng(0).random(20_000).tolist()
    points = [(float(step), 1.0 + noise[step]) for step in range(20_000)]
    points[12_345] = (12_345.0, 9.0)
    chart = line_chart([Curve(name="training", points=points)], title="Loss")
    raw = lines(chart.svg)[0][1]
    assert len(raw) <= 1600
    (spike,) = {x for x, y in raw if y < TOP + 0.2 * PLOT}
    assert spike == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) * 12_345 / 19_999, abs=1)
    assert labels(chart.svg, "middle") == ["0", "5000", "10k", "15k", "step"]


def test_values_that_are_not_finite_are_counted_not_drawn() -> None:
    curves = [
        Curve(name="training", points=[(0, 1.0), (1, math.nan), (2, math.inf), (3, 0.5)]),
        Curve(name="validation", points=[(0, math.nan)]),
    ]
    chart = line_chart(curves, title="Loss")
    assert chart.notes == (
        "training: 2 of 4 values are not finite and not drawn",
        "validation: 1 of 1 values are not finite and not drawn",
    )
    assert [name for name, _ in chart.keys] == ["training"]
    assert "nan" not in chart.svg
    assert line_chart(curves[1:], title="Loss").svg == ""


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-9, 7.5e8])
def test_a_single_value_stands_inside_the_plot(value: float) -> None:
    chart = line_chart([Curve(name="a", points=[(5, value)])], title="Loss")
    ((x, y),) = re.findall(r'<circle class="mark line-0" cx="([\d.]+)" cy="([\d.]+)"', chart.svg)
    assert LEFT < float(x) < WIDTH - RIGHT
    assert TOP <= float(y) <= HEIGHT - BOTTOM


@pytest.mark.parametrize(
    ("low", "high"), [(1e-7, 3e4), (0.9, 1.1), (3.0, 29.0), (-1.0, 5.0), (0.0, 1e-5), (1, 10.01), (3, 2999)]
)
def test_every_point_and_tick_lies_in_the_plot(low: float, high: float) -> None:
    chart = line_chart([Curve(name="a", points=[(1, low), (7, high), (90, low)])], title="Loss")
    for x, y in lines(chart.svg)[0][1]:
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= HEIGHT - BOTTOM
    rows = [points[0][1] for _, points in paths(chart.svg, "grid")]
    assert 3 <= len(rows) <= 13
    assert TOP <= min(rows) <= max(rows) <= HEIGHT - BOTTOM
    assert len(set(labels(chart.svg, "end"))) == len(rows)


@pytest.mark.parametrize(
    ("value", "label"),
    [(8e-5, "8e-5"), (1e-4, "1e-4"), (0.0213, "0.0213"), (12.34, "12.3"), (1234.5, "1234.5")],
)
def test_values_are_written_short(value: float, label: str) -> None:
    chart = line_chart([Curve(name="a", points=[(110_000, value)])], title="Loss")
    assert chart.keys[0][1] == f"{label} at step 110k"


def test_too_many_curves() -> None:
    with pytest.raises(ValueError, match="a chart shows at most 8 curves, not 9"):
        line_chart([Curve(name=str(number), points=[(0, 1.0)]) for number in range(9)], title="Loss")


def test_names_are_escaped() -> None:
    svg = line_chart([Curve(name='"><script>', points=[(0, 1.0)])], title="<b>").svg
    assert "<script>" not in svg
    assert "<b>" not in svg


def test_a_bar_has_the_shares_of_the_whole() -> None:
    drawn = bar({"substitutions": 2, "deletions": 0, "insertions": 1}, 6)
    assert re.findall(r'class="(\w+)" x="([\d.]+)" y="0" width="([\d.]+)"', drawn) == [
        ("substitutions", "0.00", "33.33"), ("deletions", "33.33", "0.00"), ("insertions", "33.33", "16.67"),
    ]  # fmt: skip
    assert 'width="0.00"' in bar({"part": 0}, 0)


def blocks(svg: Markup) -> list[tuple[str, float, float, float, float]]:
    """Return the class, left, right, top and bottom of each bar."""
    return [
        (name, min(x for x, _ in p), max(x for x, _ in p), min(y for _, y in p), max(y for _, y in p))
        for name, p in paths(svg, "count[^\"]*")
    ]  # fmt: skip


def test_heights_are_counts() -> None:
    spread = distribution(np.array([1, 2, 2, 2, 2, 4]), "characters", whole=True)
    assert spread is not None
    chart = histogram(spread, title="Text", of="record")
    drawn = blocks(chart.svg)
    assert [name for name, *_ in drawn] == ["count"] * 4
    assert [low - top for *_, top, low in drawn] == pytest.approx([PLOT / 4, PLOT, 0, PLOT / 4], abs=0.1)
    for _, left, right, _, low in drawn:
        assert low == HEIGHT - BOTTOM
        assert LEFT <= left < right <= WIDTH - RIGHT
    assert titles(chart.svg) == [
        "1 - 2 characters: 1 record",
        "2 - 3 characters: 4 records",
        "3 - 4 characters: 0 records",
        "4 - 5 characters: 1 record",
    ]
    # A low bar can be pointed at, too.
    assert [max(y for _, y in p) - min(y for _, y in p) for _, p in paths(chart.svg, "reach")] == [PLOT] * 4
    assert labels(chart.svg, "middle") == ["1", "2", "3", "4", "5", "characters"]
    assert labels(chart.svg, "end") == ["0", "1", "2", "3", "4"]
    assert 'aria-label="Text: 6 records, median 2 characters"' in chart.svg
    assert (chart.title, chart.notes) == ("Text", ())


def test_what_lies_beyond_is_pale_and_told() -> None:
    spread = distribution(np.concatenate([np.linspace(2, 10, 997), np.full(3, 3600.0)]), "s")
    assert spread is not None
    chart = histogram(spread, title="Audio", of="clip")
    assert [name for name, *_ in blocks(chart.svg)][-2:] == ["count", "count beyond"]
    assert chart.notes == ("The pale bar holds whatever lies from 10 up to 3600 s.",)
    # The axis ends where the bins of one width end.
    assert labels(chart.svg, "middle") == ["2", "4", "6", "8", "10", "s"]


def test_few_are_not_counted_in_halves() -> None:
    spread = distribution(np.array([3.0]), "s")
    assert spread is not None
    assert labels(histogram(spread, title="a", of="b").svg, "end") == ["0", "1"]


VALUES = [[0.0, 0.5, -0.1], [-0.25, -0.2, -0.5]]
WHITE, ORANGE, BLUE = (243, 243, 240), (158, 60, 0), (0, 78, 122)


def pictures(svg: Markup) -> list[NDArray[np.uint8]]:
    """Return the pictures in a chart, (rows, columns, red green blue)."""
    found = re.findall(r'href="data:image/png;base64,([^"]+)"', svg)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in found]


def test_cells_rows_and_peaks() -> None:
    chart = heat_map(VALUES, ["猫", "a long name"], title="Cats", across="audio token")
    cells, legend = pictures(chart.svg)
    assert cells.shape == (2, 3, 3)
    assert [tuple(cell) for cell in cells[0, :2]] == [WHITE, ORANGE]  # 0.5 is the largest absolute value
    assert tuple(cells[1, 2]) == BLUE
    assert cells[1, 0] == pytest.approx([(a + b) / 2 for a, b in zip(WHITE, BLUE, strict=True)], abs=1)
    assert [tuple(legend[0, place]) for place in (0, 32, -1)] == [BLUE, WHITE, ORANGE]
    assert labels(chart.svg, "end") == ["猫", "a␣long␣n…"]
    width = WIDTH - NAMES - RIGHT
    peaks = re.findall(r'<circle class="peak" cx="([^"]+)" cy="([^"]+)"', chart.svg)
    assert [(float(x), float(y)) for x, y in peaks] == [
        (round(NAMES + width / 2, 1), TOP + ROW / 2),
        (round(NAMES + width / 2, 1), TOP + ROW * 1.5),
    ]
    assert titles(chart.svg) == ["猫: 0.5 at 1", "a long name: -0.2 at 1"]
    assert labels(chart.svg, "middle") == ["0", "1", "2", "3", "audio token", "-0.5", "0", "0.5"]
    assert 'aria-label="Cats: 2 by 3, from -0.5 to 0.5"' in chart.svg


def test_all_zero_is_white_and_any_text_is_a_name() -> None:
    names = ["<b>", "$x^2$", "\x1b\ud83d"]
    chart = heat_map([[0.0, 0.0]] * 3, names, title="None", across="token")
    assert {tuple(cell) for cell in pictures(chart.svg)[0].reshape(-1, 3)} == {WHITE}
    assert labels(chart.svg, "end") == ["&lt;b&gt;", "$x^2$", "\\x1b\\ud8…"]


def test_a_home_that_cannot_be_written_is_no_trouble_and_matplotlib_waits(tmp_path: Path) -> None:
    code = (
        "import sys; from kikimimi.report.charts import Curve, line_chart\n"
        "assert 'matplotlib' not in sys.modules\n"
        "line_chart([Curve(name='a', points=[(0, 1.0)])], title='A')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    places = {"HOME": "/proc/nowhere", "KIKIMIMI_CACHE": str(tmp_path)}
    others = {k: v for k, v in os.environ.items() if k not in ("MPLCONFIGDIR", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=others | places, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "matplotlib").glob("fontlist*"))


def test_stages_stand_side_by_side_on_one_value_axis() -> None:
    def stage(shift: float, *names: str) -> list[Curve]:
        return [Curve(name=name, points=[(0, 2 + shift), (100, 4 + shift)]) for name in names]

    panels = {"align & more": stage(0, "training", "validation"), "sft": stage(2, "validation"), "dpo": []}
    chart = panel_chart(panels, title="Loss")
    assert chart.wide
    assert labels(chart.svg, "panel") == ["align &amp; more", "sft"]
    assert labels(chart.svg, "end") == ["0", "2", "4", "6"]  # written once
    found = lines(chart.svg)
    assert [classes for classes, _ in found] == ["line-0", "line-1", "line-1"]  # a name has one style
    (_, high), (later_low, later_high) = found[1][1], found[2][1]
    assert high[0] < later_low[0]
    assert (high[1], later_high[1] < high[1]) == (later_low[1], True)  # 4 is as high in both
    assert chart.keys == (("training", "align & more 4"), ("validation", "align & more 4, sft 6"))
    assert not panel_chart({"align": stage(0, "training"), "dpo": []}, title="Loss").wide
    with pytest.raises(ValueError, match="at most 8 curves, not 9"):
        panel_chart({"a": stage(0, *"12345"), "b": stage(0, *"6789")}, title="Loss")


def test_dots_have_their_intervals() -> None:
    dots: dict[str, list[tuple[float, float, float] | None]] = {
        "ours": [(10, 5, 20), None],
        "theirs": [(20, 20, 20), (15, 10, 20)],
    }
    chart = dot_chart(["0 to 2 s", "<speaker>"], dots, title="CER", unit="%")
    assert [name for name, _ in paths(chart.svg, r"line-\d")] == ["line-0", "line-1", "line-1"]
    (_, whisker), *_ = paths(chart.svg, r"line-\d")
    plot = WIDTH - NAMES - RIGHT
    assert [round(x) for x, _ in whisker] == [round(NAMES + plot * 5 / 20), WIDTH - RIGHT]
    assert titles(chart.svg) == [
        "ours, 0 to 2 s: 10 %",
        "theirs, 0 to 2 s: 20 %",
        "theirs, &lt;speaker&gt;: 15 %",
    ]
    assert labels(chart.svg, "end") == ["0 to 2 s", "&lt;speaker&gt;"]
    with pytest.raises(ValueError, match="at most 8 systems, not 9"):
        dot_chart(["a"], {str(n): [None] for n in range(9)}, title="CER", unit="%")


def point(cost: float, value: float, mark: str = "") -> CostPoint:
    return CostPoint(name=f"<{cost}>", mark=mark, cost=cost, value=value, low=value - 1, high=value + 1)


def test_the_front_holds_what_nothing_cheaper_is_as_good_as() -> None:
    points = [point(3, 5), point(1, 9), point(2, 9), point(1, 8), point(4, 6), point(5, 2)]
    assert [(one.cost, one.value) for one in pareto_front(points, "lower")] == [(1, 8), (3, 5), (5, 2)]
    assert [(one.cost, one.value) for one in pareto_front(points, "higher")] == [(1, 9)]


@pytest.mark.parametrize("last", [20.0, 2000.0])
def test_a_picture_of_costs_names_its_front(last: float) -> None:
    points = [point(10, 30, "1"), point(15, 40, "2"), point(last, 20, "3")]
    chart = pareto_chart(points, title="CER", cost="parameters", unit="%", better="lower")
    assert chart.notes[0].endswith("from the cheapest: 1: <10>; 3: <20.0>." if last < 99 else "3: <2000.0>.")
    assert "2: " not in chart.notes[0]
    assert chart.title.endswith("(log scale of the cost)") == (last > 99)
    whole = "2000" if last > 99 else "20"
    assert titles(chart.svg) == [
        "&lt;10&gt;: 30 %, parameters 10",
        "&lt;15&gt;: 40 %, parameters 15",
        f"&lt;{last}&gt;: 20 %, parameters {whole}",
    ]
    assert {"1", "3"} <= set(labels(chart.svg, "middle"))
