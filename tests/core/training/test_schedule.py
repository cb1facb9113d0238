"""The factor on the learning rate, step by step."""

from __future__ import annotations

import math

import pytest

from kikimimi.recipe import Schedule
from kikimimi.training.schedule import factor


def test_a_logarithmic_warm_up_is_deepspeeds() -> None:
    """Its `WarmupLR`: log(step + 1) / log(warmup), by default."""
    schedule = Schedule(warmup=1000, warmup_type="log", start=0.0, floor=0.0)
    rates = [factor(schedule, step, 11_458) for step in (0, 9, 99, 999, 1000)]
    assert rates == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0, 1.0])
    assert factor(schedule, 11_457, 11_458) == 0.0
    assert factor(Schedule(warmup=1, warmup_type="log", start=0.0), 0, 2) == 0.0


def test_a_linear_warm_up_and_each_decay() -> None:
    assert factor(Schedule(warmup=10, start=0.1), 5, 100) == pytest.approx(0.55)
    assert factor(Schedule(floor=0.1), 99, 100) == pytest.approx(0.1)
    half = factor(Schedule(name="cosine", floor=0.0), 50, 101)
    assert half == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    assert factor(Schedule(name="constant", warmup=10), 99, 100) == 1.0


def test_three_stages_are_fairseqs() -> None:
    """Its `tri_stage` of 0.1, 0.4 and 0.5 of the steps, from 1 % of the peak to 5 %."""
    schedule = Schedule(name="exponential", warmup=100, hold=400, start=0.01, floor=0.05)
    rates = [factor(schedule, step, 1001) for step in (0, 50, 100, 499, 500, 750, 1000)]
    assert rates == pytest.approx([0.01, 0.505, 1.0, 1.0, 1.0, 0.05**0.5, 0.05])
    # A stage that ends while the rate is held.
    assert factor(schedule, 400, 401) == 1.0
    with pytest.raises(ValueError, match="floor must be above 0 where name is exponential"):
        Schedule(name="exponential", floor=0.0)
    with pytest.raises(ValueError, match="hold is read only before a decay"):
        Schedule(name="constant", hold=1)


def test_a_warm_up_that_is_not_there_has_no_form() -> None:
    with pytest.raises(ValueError, match="warmup_type is read only by a warm-up: set warmup above 0"):
        Schedule(warmup_type="log")
