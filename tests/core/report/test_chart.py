import math
import re

import pytest
from markupsafe import Markup

from kikimimi.evaluation.score import Score, score
from kikimimi.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Curve, error_bar, line_chart


def polylines(svg: Markup) -> list[tuple[str, list[tuple[float, float]]]]:
    found = re.findall(r'<polyline class="([^"]+)" points="([^"]+)"', svg)
    return [
        (classes, [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())])
        for classes, points in found
    ]


def tick_labels(svg: Markup, side: str) -> list[str]:
    return re.findall(rf'<text class="{side}"[^>]*>([^<]*)</text>', svg)


def test_a_short_curve_has_a_marker_at_each_value() -> None:
    chart = line_chart([Curve(name="validation", points=[(0, 4.0), (50, 3.0), (100, 2.0)])], title="Loss")
    assert chart.title == "Loss"
    assert re.findall(r"<title>([^<]*)</title>", chart.svg) == [
        "4 at step 0",
        "3 at step 50",
        "2 at step 100",
    ]
    ((classes, points),) = polylines(chart.svg)
    assert classes == "line-0"
    assert points[1][0] == pytest.approx((LEFT + WIDTH - RIGHT) / 2)
    assert [points[0], points[2]] == [(LEFT, TOP), (WIDTH - RIGHT, HEIGHT - BOTTOM)]
    assert [(key.style, key.name, key.last) for key in chart.keys] == [(0, "validation", "2 at step 100")]
    assert chart.notes == ()
    assert 'aria-label="Loss: validation from 4 to 2"' in chart.svg


def test_values_over_decades_get_a_log_scale() -> None:
    curve = Curve(name="training", points=[(0, 10.0), (1, 1.0), (2, 0.1), (3, 0.01)])
    chart = line_chart([curve], title="Loss")
    assert chart.title == "Loss (log scale)"
    assert tick_labels(chart.svg, "end") == ["0.01", "0.1", "1", "10"]
    heights = [y for _, y in polylines(chart.svg)[0][1]]
    assert heights[1] - heights[0] == pytest.approx(heights[3] - heights[2], abs=0.11)
    exact = line_chart([curve], title="Learning rate", exact=True)
    assert exact.title == "Learning rate"
    assert tick_labels(exact.svg, "end") == ["0", "2", "4", "6", "8", "10"]


def test_a_value_that_is_zero_keeps_the_scale_linear() -> None:
    assert line_chart([Curve(name="a", points=[(0, 100.0), (1, 0.0)])], title="Loss").title == "Loss"


def test_a_long_curve_is_smoothed_and_says_so() -> None:
    points = [(step, 2.0 + (-1) ** step) for step in range(400)]
    chart = line_chart([Curve(name="training", points=points)], title="Loss")
    (raw_classes, raw), (classes, smooth) = polylines(chart.svg)
    assert (raw_classes, classes) == ("raw line-0", "line-0")
    assert max(y for _, y in raw) - min(y for _, y in raw) == pytest.approx(HEIGHT - TOP - BOTTOM, abs=80)
    late = [y for x, y in smooth if x > WIDTH / 2]
    assert max(late) - min(late) < 0.15 * (HEIGHT - TOP - BOTTOM)
    assert chart.notes == ("Pale: as logged. Strong: exponential average over 10 points.",)
    assert chart.keys[0].last == "1 at step 399"


def test_the_average_of_a_constant_is_the_constant() -> None:
    chart = line_chart([Curve(name="a", points=[(step, 5.0) for step in range(100)])], title="Loss")
    assert {y for _, line in polylines(chart.svg) for _, y in line} == {TOP + (HEIGHT - TOP - BOTTOM) / 2}


def test_an_exact_curve_is_not_smoothed() -> None:
    points = [(step, float(step % 2)) for step in range(100)]
    chart = line_chart([Curve(name="adapter", points=points)], title="Learning rate", exact=True)
    assert [classes for classes, _ in polylines(chart.svg)] == ["line-0"]
    assert chart.notes == ()


def test_a_spike_survives_thinning() -> None:
    points = [(float(step), 1.0) for step in range(20_000)]
    points[12_345] = (12_345.0, 9.0)
    chart = line_chart([Curve(name="training", points=points)], title="Loss")
    raw = polylines(chart.svg)[0][1]
    assert len(raw) <= 802
    (spike,) = [x for x, y in raw if y < TOP + 0.2 * (HEIGHT - TOP - BOTTOM)]
    assert spike == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) * 12_345 / 19_999, abs=0.06)
    assert tick_labels(chart.svg, "middle") == ["0", "5000", "10k", "15k", "step"]


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
    assert [key.name for key in chart.keys] == ["training"]
    assert "nan" not in chart.svg
    assert line_chart(curves[1:], title="Loss").svg == ""


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-9, 7.5e8])
def test_a_single_value_stands_inside_the_plot(value: float) -> None:
    chart = line_chart([Curve(name="a", points=[(5, value)])], title="Loss")
    ((_, ((x, y),)),) = polylines(chart.svg)
    assert LEFT < x < WIDTH - RIGHT
    assert TOP <= y <= HEIGHT - BOTTOM


@pytest.mark.parametrize(
    ("low", "high"), [(1e-7, 3e4), (0.9, 1.1), (3.0, 29.0), (-1.0, 5.0), (0.0, 1e-5), (1, 10.01)]
)
def test_every_point_and_tick_lies_in_the_plot(low: float, high: float) -> None:
    chart = line_chart([Curve(name="a", points=[(1, low), (7, high), (90, low)])], title="Loss")
    for x, y in polylines(chart.svg)[0][1]:
        assert LEFT <= x <= WIDTH - RIGHT
        assert TOP <= y <= HEIGHT - BOTTOM
    rows = [float(y) for y in re.findall(r'<line class="grid"[^>]* y1="([\d.]+)"', chart.svg)]
    assert 3 <= len(rows) <= 13
    assert TOP <= min(rows) <= max(rows) <= HEIGHT - BOTTOM
    assert len(set(tick_labels(chart.svg, "end"))) == len(rows)


@pytest.mark.parametrize(
    ("value", "label"),
    [(8e-5, "8e-5"), (1e-4, "1e-4"), (0.0213, "0.0213"), (12.34, "12.3"), (1234.5, "1234.5")],
)
def test_values_are_written_short(value: float, label: str) -> None:
    chart = line_chart([Curve(name="a", points=[(110_000, value)])], title="Loss")
    assert chart.keys[0].last == f"{label} at step 110k"


def test_too_many_curves() -> None:
    with pytest.raises(ValueError, match="a chart shows at most 4 curves, not 5"):
        line_chart([Curve(name=str(number), points=[(0, 1.0)]) for number in range(5)], title="Loss")


def test_names_are_escaped() -> None:
    svg = line_chart([Curve(name='"><script>', points=[(0, 1.0)])], title="<b>").svg
    assert "<script>" not in svg
    assert "<b>" not in svg


def widths(bar: Markup) -> dict[str, float]:
    return {
        kind: float(width)
        for kind, width in re.findall(r'class="(\w+)" x="[\d.]+" y="0" width="([\d.]+)"', bar)
    }


def test_an_error_bar_has_the_shares_of_the_score() -> None:
    result = score(["abcdefghij"], ["xbcdefghizz"], metric="cer", normaliser="none")
    assert (result.substitutions, result.deletions, result.insertions) == (2, 0, 1)
    assert widths(error_bar(result, result.value)) == {
        "substitutions": 66.67,
        "deletions": 0,
        "insertions": 33.33,
    }
    assert widths(error_bar(result, 2 * result.value))["insertions"] == 16.67


def test_an_error_bar_without_errors() -> None:
    perfect = Score(
        metric="cer", normaliser="none", count=1, skipped=0,
        substitutions=0, deletions=0, insertions=0, reference_length=3,
    )  # fmt: skip
    assert set(widths(error_bar(perfect, 0.0)).values()) == {0.0}
