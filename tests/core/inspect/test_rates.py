from __future__ import annotations

import math

import numpy as np
import pytest

from kikimimi.inspect.stats import FAR, FEWEST, NARROWEST, measure_rates


def measure(seconds: list[float], characters: list[int], worst: int = 10) -> tuple[list, list]:  # type: ignore[type-arg]
    return measure_rates(
        np.array(seconds, dtype=np.float32),
        np.array(characters, dtype=np.int32),
        np.zeros(len(seconds), dtype=np.int64),
        ["ja"],
        worst=worst,
    )


def test_too_much_and_too_little_text() -> None:
    (rate,), far = measure([10.0] * 42, [70] * 40 + [700, 7])
    assert (rate.language, rate.rates.count, rate.too_much, rate.too_little) == ("ja", 42, 1, 1)
    # All others are equal: the least deviation that is assumed decides.
    assert rate.low == pytest.approx(7 / math.exp(FAR * NARROWEST))
    assert rate.high == pytest.approx(7 * math.exp(FAR * NARROWEST))
    assert [item.row for item in far] == [40, 41]
    assert far[0].deviation == pytest.approx(math.log(10) / NARROWEST)
    assert far[1].deviation == pytest.approx(-far[0].deviation)
    assert far[0].usual == pytest.approx(7)


def test_the_robust_deviation_is_that_of_a_normal_distribution() -> None:
    logs = np.random.default_rng(0).normal(2.0, 0.3, 50_001)
    seconds = np.full(len(logs), 1e6, dtype=np.float32)
    characters = np.rint(np.exp(logs) * 1e6).astype(np.int64)
    (rate,), _ = measure_rates(seconds, characters, np.zeros(len(logs), np.int64), ["en"], worst=0)
    assert math.log(rate.high / rate.rates.median) / FAR == pytest.approx(0.3, rel=0.02)  # type: ignore[operator]


def test_each_language_has_its_own_usual() -> None:
    characters = np.array([70] * 30 + [150] * 30)
    languages = np.array([0] * 30 + [1] * 30)
    rates, far = measure_rates(np.full(60, 10, np.float32), characters, languages, ["ja", "en"], worst=5)
    assert [(rate.language, rate.rates.median) for rate in rates] == [("ja", 7), ("en", 15)]
    assert far == []


def test_only_the_farthest_are_named_but_all_are_counted() -> None:
    (rate,), far = measure([1.0] * 44, [100] * 40 + [1000, 4000, 2000, 1], worst=2)
    assert (rate.too_much, rate.too_little) == (3, 1)
    assert [item.row for item in far] == [41, 42, 43]
    assert measure([1.0] * 44, [100] * 40 + [1000, 4000, 2000, 1], worst=0)[1] == []


def test_too_few_to_tell() -> None:
    (rate,), far = measure([1.0] * (FEWEST - 1), [10] * (FEWEST - 2) + [1000])
    assert (rate.low, rate.high, rate.too_much) == (None, None, 0)
    assert far == []
    assert measure([1.0] * FEWEST, [10] * (FEWEST - 1) + [1000])[0][0].too_much == 1


def test_without_audio_or_text_there_is_no_rate() -> None:
    assert measure([0.0, 1.0], [10, 0]) == ([], [])
