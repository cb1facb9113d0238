"""The interval of a score."""

from __future__ import annotations

import math

import pytest

from kikimimi.contracts.metric import open_metric
from kikimimi.evaluation.bootstrap import compare, interval
from kikimimi.evaluation.breakdown import break_down, groups_in, length_group


def of_rates(*errors: int) -> tuple[float, float] | None:
    metric, _ = open_metric("wer", "none")
    (shape,) = metric.measure(["a b c d"], ["a b c d"])
    assert shape is not None
    names = {"substitutions": 0, "deletions": 0, "insertions": 0, "reference_length": 4}
    assert shape.keys() == names.keys()
    return interval(metric, [{**names, "substitutions": number} for number in errors])


def test_it_is_as_wide_as_the_error_of_a_mean() -> None:
    errors = [0, 1] * 200  # of four words each: a rate of 12.5 %
    ends = of_rates(*errors)
    assert ends is not None
    half = 1.96 * 12.5 / math.sqrt(400)
    assert ends == pytest.approx((12.5 - half, 12.5 + half), abs=0.15)
    assert of_rates(*errors) == ends


def test_utterances_that_are_alike_leave_none_and_one_has_none() -> None:
    assert of_rates(1, 1, 1) == (25.0, 25.0)
    assert of_rates(1) is None
    metric, _ = open_metric("wer", "none")
    assert interval(metric, [None, None]) is None


def rates(*errors: int | None) -> list[dict[str, float] | None]:
    names = {"deletions": 0.0, "insertions": 0.0, "reference_length": 4.0}
    return [None if number is None else {"substitutions": number, **names} for number in errors]


def test_systems_are_compared_on_the_same_draws() -> None:
    metric, _ = open_metric("wer", "none")
    hard = [0, 2, 4, 1] * 100  # utterances differ far more from each other than the systems do
    better = [max(0, n - 1) if row % 8 == 1 else n for row, n in enumerate(hard)]
    found = compare(metric, rates(*better), rates(*hard))
    assert found is not None
    assert found.difference == pytest.approx(-100 * 50 / 1600)
    assert (found.differ, found.count) == (50, 400)
    assert found.low < found.difference < found.high < 0
    assert found.significant
    alone = [interval(metric, rates(*one)) for one in (better, hard)]
    assert alone[0] is not None
    assert alone[1] is not None
    assert alone[0][1] > alone[1][0]  # their own intervals overlap all the same
    half = 1.96 * 25 * math.sqrt(0.125 * 0.875 / 400)
    assert (found.low, found.high) == pytest.approx((-3.125 - half, -3.125 + half), abs=0.15)
    other = compare(metric, rates(*hard), rates(*better))
    assert other is not None
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low))


def test_what_either_system_lacks_is_compared_in_neither() -> None:
    metric, _ = open_metric("wer", "none")
    found = compare(metric, rates(1, None, 2, 0), rates(1, 1, None, 4))
    assert found is not None
    assert (found.count, found.differ, found.difference) == (2, 1, 100 * (1 - 5) / 8)
    assert not found.significant
    assert compare(metric, rates(1, None), rates(1, 2)) is None


def test_groups_are_drawn_whole() -> None:
    """Ten speakers who differ: their clips say as much as ten clips do, not as a thousand."""
    metric, _ = open_metric("wer", "none")
    errors = [0] * 500 + [1] * 500
    speakers = [row // 100 for row in range(1000)]
    of_clips, of_speakers = (interval(metric, rates(*errors), groups) for groups in (None, speakers))
    assert of_clips is not None
    assert of_speakers is not None
    assert of_clips[1] - of_clips[0] == pytest.approx(2 * 1.96 * 12.5 / math.sqrt(1000), rel=0.1)
    assert of_speakers[1] - of_speakers[0] == pytest.approx(2 * 1.96 * 12.5 / math.sqrt(10), rel=0.1)
    assert interval(metric, rates(0, 1), ["a", "a"]) is None


def test_parts_have_values_and_intervals_of_their_own() -> None:
    metric, _ = open_metric("wer", "none")
    found = break_down(
        metric, rates(0, 0, 4, None, 2), ["10 to 20 s", "2 to 5 s", "2 to 5 s", "0 to 2 s", "x"]
    )
    assert list(found) == ["x", "2 to 5 s", "10 to 20 s"]
    assert found["2 to 5 s"] == {"value": 50, "count": 2, "low": 0, "high": 100}
    assert found["10 to 20 s"] == {"value": 0, "count": 1}
    many = break_down(metric, rates(*[0] * 60), [f"s{row:02}" for row in range(60)])
    assert len(many) == 51
    assert many["(10 others)"]["count"] == 10


def test_intervals_of_parts_draw_what_that_of_the_whole_draws() -> None:
    """An accent of two speakers who differ tells as much as two clips do, not as two hundred."""
    metric, _ = open_metric("wer", "none")
    errors = rates(*[0] * 100, *[4] * 100, *[2] * 100)
    speakers = [f"s{row // 100}" for row in range(300)]
    accents = ["west"] * 200 + ["east"] * 100
    of_clips, of_speakers = (break_down(metric, errors, accents, drawn) for drawn in (None, speakers))
    assert of_clips["west"]["low"] > 40
    assert of_speakers["west"] == {"value": 50, "count": 200, "low": 0, "high": 100}
    assert of_speakers["east"] == {"value": 50, "count": 100}  # one speaker: nothing to draw
    assert break_down(metric, errors, speakers, speakers) == break_down(metric, errors, speakers)


def test_lengths_and_fields_make_parts() -> None:
    assert [length_group(seconds) for seconds in (0, 1.99, 2, 29.9, 30)] == [
        "0 to 2 s",
        "0 to 2 s",
        "2 to 5 s",
        "20 to 30 s",
        "30 s and more",
    ]
    rows: list[dict[str, object]] = [{"speaker": "a"}, {"meta": {"speaker": 7}}, {"speaker": ""}]
    assert groups_in(rows, "speaker") == ["a", "7", "(none)"]
    assert groups_in(rows, "accent", optional=True) is None
