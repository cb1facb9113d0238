from __future__ import annotations

from fractions import Fraction

import pytest

from kikimimi.data.order.mixture import record_shares, share_begin


def test_without_weights_there_is_no_mixture() -> None:
    assert record_shares([None, None], [10, 30], [5.0, 5.0]) is None
    assert record_shares([None], [10], [5.0], by="seconds") is None


def test_weights_are_parts_of_the_samples() -> None:
    weights = [6, 2, 9, 1, 1, 1, 1]  # the published mixture of seven
    shares = record_shares(weights, [100] * 7, [1.0] * 7)
    assert shares == [Fraction(weight, 21) for weight in weights]


def test_weights_may_be_parts_of_the_seconds() -> None:
    # The same time from clips of 2 s and of 10 s: five of the short for one of the long.
    shares = record_shares([1, 1], [100, 100], [200.0, 1000.0], by="seconds")
    assert shares == [Fraction(5, 6), Fraction(1, 6)]


@pytest.mark.parametrize("by", ["samples", "seconds"])
def test_temperature_makes_parts_more_even(by: str) -> None:
    def small(temperature: float, weights: list[float | None]) -> float:
        shares = record_shares(weights, [900, 100], [900.0, 100.0], by=by, temperature=temperature)  # type: ignore[arg-type]
        assert shares is not None
        assert sum(shares) == 1
        return float(shares[1])

    assert small(2, [None, None]) == pytest.approx(10 / 40)  # square roots of 900 and 100
    assert small(2, [9.0, 1.0]) == pytest.approx(1 / 4)
    assert small(5, [None, None]) == pytest.approx(1 / (1 + 9**0.2))
    assert small(1000, [None, None]) == pytest.approx(0.5, abs=1e-3)
    assert small(0.5, [9.0, 1.0]) == pytest.approx(1 / 82)


def test_shares_are_rounded_over_all_epochs_together() -> None:
    share = Fraction(1, 30)
    begins = [share_begin(share, 10, epoch) for epoch in range(10)]
    assert begins == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert share_begin(Fraction(1, 3), 25_000_000, 1_000_000) == round(25_000_000_000_000 / 3)


def test_refuses() -> None:
    with pytest.raises(ValueError, match="either every dataset has a weight or none has"):
        record_shares([1, None], [1, 1], [1.0, 1.0])
    for weights, temperature in (([1, 0], 1.0), ([1, 1], 0.0)):
        with pytest.raises(ValueError, match="weights and temperature must be above 0"):
            record_shares(weights, [1, 1], [1.0, 1.0], temperature=temperature)
