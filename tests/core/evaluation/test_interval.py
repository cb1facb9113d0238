"""The interval of a score."""

from __future__ import annotations

import math

import pytest

from kikimimi.contracts.metric import open_metric
from kikimimi.evaluation.interval import interval


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
