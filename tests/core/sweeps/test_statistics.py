"""Draws over seeds and clips, paired tests, effects, and how many seeds are needed: against sums by hand."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from kikimimi.contracts.metric import open_metric
from kikimimi.evaluation.bootstrap import DRAWS
from kikimimi.evaluation.score import score
from kikimimi.sweeps.effects import find_effects
from kikimimi.sweeps.seed_draws import SeedDraws, draw_setting, mean_by_clips, pool_seeds
from kikimimi.sweeps.setting_tests import best_settings, compare_best, holm, seeds_needed, student_p

T_TWO_SEEDS = 12.706  # 97.5 % of Student's t with one degree of freedom, of any table
T_FIVE_SEEDS = 2.776  # with four


def setting(*values: float, number: int = 0) -> SeedDraws:
    return draw_setting(values, None, number)


def test_the_interval_over_seeds_is_that_of_students_t() -> None:
    for values, t in (((1.0, 2.0), T_TWO_SEEDS), ((1.0, 2.0, 3.0, 4.0, 5.0), T_FIVE_SEEDS)):
        one = setting(*values)
        half = t * np.std(values, ddof=1) / sqrt(len(values))
        assert one.interval is not None
        low, high = one.interval
        assert one.value == pytest.approx(np.mean(values))
        assert (high - low) / 2 == pytest.approx(half, rel=0.12)


def test_without_seeds_the_clips_alone_are_drawn() -> None:
    clips = np.linspace(0, 1, DRAWS)
    one = draw_setting([0.5], clips, 0)
    assert one.spread is None
    assert one.interval == pytest.approx((0.025, 0.975), abs=1e-3)
    assert setting(0.5).interval is None


def test_clips_are_drawn_alike_for_every_setting() -> None:
    references = [f"これは{number}番です" for number in range(40)]
    metric, _ = open_metric("cer", "none")
    seeds = []
    for wrong in (3, 7):
        texts = [text if row % wrong else text[1:] for row, text in enumerate(references)]
        utterances = score(references, texts, metric="cer", normaliser="none").utterances
        seeds.append({str(row): details for row, details in enumerate(utterances) if details})
    keys = list(seeds[0])
    both = mean_by_clips(metric, seeds, keys)
    alone = [mean_by_clips(metric, [one], keys) for one in seeds]
    assert both is not None
    assert alone[0] is not None
    assert alone[1] is not None
    assert both == pytest.approx((alone[0] + alone[1]) / 2)
    # A setting that errs where the other does, and nowhere else: their difference varies less than either.
    assert np.std(alone[0] - alone[1]) < np.std(alone[0]) + np.std(alone[1])
    assert mean_by_clips(metric, [seeds[0]], keys[:1]) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
    assert holm([0.01, 0.001], 5) == pytest.approx([0.04, 0.005])


def test_the_best_is_marked_only_where_the_test_supports_it() -> None:
    apart = {"a": setting(1.0, 1.1, 0.9, number=0), "b": setting(5.0, 5.2, 4.9, number=1)}
    pairs = compare_best(apart, "lower")
    assert (pairs[0].one, pairs[0].other) == ("a", "b")
    assert pairs[0].settled
    assert pairs[0].needed == ""
    assert pairs[0].low < pairs[0].difference < pairs[0].high < 0
    assert best_settings("a", pairs) == {"a"}
    close = {**apart, "c": setting(1.05, 1.3, 0.8, number=2)}
    assert best_settings("a", compare_best(close, "lower")) == {"a", "c"}
    assert best_settings("b", compare_best(close, "higher")) == {"b"}
    same = {"a": setting(1.0, 1.4, number=0), "b": setting(1.1, 1.5, number=1)}
    assert best_settings("a", compare_best(same, "lower")) == frozenset()
    assert compare_best({"a": setting(1.0)}, "lower") == []


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [
        (63.657, 1, 0.01),
        (31.599, 2, 0.001),
        (3.182, 3, 0.05),
        (4.604, 4, 0.01),
        (1.984, 100, 0.05),
        (1.960, None, 0.05),
    ],
)
def test_students_t_is_that_of_tables(t: float, freedom: int | None, p: float) -> None:
    assert student_p(t, freedom) == pytest.approx(p, rel=1e-3)
    assert 0 < student_p(1e9, freedom) < 1e-8
    assert student_p(0, freedom) == 1


def test_many_settings_leave_a_clear_winner_clear() -> None:
    """Draws alone cannot tell it: the least p of so many, times 780 comparisons, is above 5 %."""
    random = np.random.default_rng(0)
    values: list[list[float]] = [random.normal(10, 0.5, 3).tolist() for _ in range(39)]
    values.append([1.0, 1.5, 0.5])
    scatter = pool_seeds(values)
    settings = {str(n): draw_setting(of, None, n, scatter) for n, of in enumerate(values)}
    pairs = compare_best(settings, "lower")
    assert {pair.one for pair in pairs} == {"39"}
    assert all(pair.settled for pair in pairs)
    assert not any(pair.settled for pair in compare_best({**settings, "39": settings["0"]}, "lower"))


def test_equal_settings_are_rarely_told_apart_however_few_seeds() -> None:
    """Redrawing two seeds of each would tell one in five pairs apart; the level is 5 % of all together."""
    random = np.random.default_rng(0)
    for settings, seeds in ((2, 2), (8, 2)):
        wrong = 0
        for trial in range(60):
            values = random.normal(size=(settings, seeds)).tolist()
            scatter = pool_seeds(values)
            drawn = {
                str(number): draw_setting(one, None, settings * trial + number, scatter)
                for number, one in enumerate(values)
            }
            wrong += any(pair.settled for pair in compare_best(drawn, "lower"))
        assert wrong <= 6


def test_how_far_seeds_scatter_is_pooled_by_hand() -> None:
    # Sums of squares of (1, 3) and (2, 4, 5): 2 and 14 / 3, over 1 + 2 seeds beyond the first.
    scatter = pool_seeds([[1.0, 3.0], [2.0, 4.0, 5.0], [7.0]])
    assert scatter is not None
    assert scatter.freedom == 3
    assert scatter.variance == pytest.approx((2 + 14 / 3) / 3)
    assert pool_seeds([[1.0], [2.0]]) is None
    calm, wild = draw_setting([1.0, 1.1], None, 0, scatter), draw_setting([0.0, 9.0], None, 1, scatter)
    assert calm.spread == pytest.approx(sqrt((2 + 14 / 3) / 3))
    assert wild.spread == pytest.approx(sqrt(40.5))
    alone = draw_setting([1.0], None, 2, scatter)
    assert alone.spread == calm.spread


def test_so_many_seeds_as_are_said_do_settle_it() -> None:
    """With four seeds of each, of which a sum by the normal would say it, four in ten would be settled."""
    one, other = setting(1.0, 3.0, number=0), setting(4.0, 6.0, number=1)
    assert seeds_needed(one, other, 1) == "about 4 more seeds of each"
    random, seeds = np.random.default_rng(0), 2 + 4
    settled = 0
    for _ in range(150):
        drawn = {
            str(mean): setting(*random.normal(mean, sqrt(2), seeds), number=mean)  # as those above scatter
            for mean in (2, 5)
        }
        settled += compare_best(drawn, "lower")[0].settled
    assert 0.75 < settled / 150 < 0.95


def test_seeds_that_are_needed_by_hand() -> None:
    one, other = setting(1.0, 3.0, number=0), setting(4.0, 6.0, number=1)
    # Many seeds scatter by the normal. Variances 2 and 2, difference 0.6, at 5 % with power 80 %:
    # (1.960 + 0.842)^2 * 4 / 0.36 = 87.2, two more for the t; with ten comparisons 147.9.
    close = setting(1.6, 3.6, number=1)
    said = seeds_needed(one, close, 1)
    assert int(said.split()[1]) + 2 == pytest.approx(89, abs=2)
    assert seeds_needed(one, close, 10) == "more than 100 seeds of each"
    far = setting(1.01, 3.01, number=2)
    assert seeds_needed(one, far, 1) == "more than 100 seeds of each"
    assert "one seed" in seeds_needed(setting(1.0), other, 1)
    clips = [np.random.default_rng(side).normal(mean, 3, DRAWS) for side, mean in ((0, 2), (1, 5))]
    noisy = [draw_setting(values, of, 0) for values, of in zip(((1.0, 3.0), (4.0, 6.0)), clips, strict=True)]
    assert "more clips" in seeds_needed(noisy[0], noisy[1], 1)
    assert "equal" in seeds_needed(one, setting(2.0, 2.0), 1)


def test_effects_are_those_that_a_grid_was_made_of() -> None:
    rows, columns = {"a": 1.0, "b": -3.0, "c": 2.0}, {"x": 0.5, "y": -0.5}
    cross = {("a", "x"): 0.2, ("b", "x"): -0.3, ("c", "x"): 0.1}
    settings, levels = {}, {}
    for number, (row, column) in enumerate((r, c) for r in rows for c in columns):
        beside = cross[row, "x"] * (1 if column == "x" else -1)
        mean = 10 + rows[row] + columns[column] + beside
        name = f"{row}{column}"
        settings[name] = setting(mean - 0.1, mean + 0.1, number=number)
        levels[name] = {"row": row, "column": column}
    factors = {"row": ["a", "b", "c"], "column": ["x", "y"]}
    main, together, notes = find_effects(settings, levels, factors)
    assert notes == []
    assert {one.levels["row"]: one.value for one in main["row"]} == pytest.approx(rows)
    assert {one.levels["column"]: one.value for one in main["column"]} == pytest.approx(columns)
    found = {tuple(one.levels.values()): one.value for one in together["row", "column"]}
    assert found == pytest.approx({**cross, **{(row, "y"): -value for (row, _), value in cross.items()}})
    assert all(one.low < one.value < one.high for one in main["row"])


def test_what_missing_settings_leave_open_is_said() -> None:
    settings = {name: setting(1.0, 2.0, number=number) for number, name in enumerate(("ax", "ay", "bx"))}
    levels = {name: {"row": name[0], "column": name[1]} for name in settings}
    factors = {"row": ["a", "b"], "column": ["x", "y"]}
    main, together, notes = find_effects(settings, levels, factors)
    assert set(main) == {"row", "column"}
    assert together == {}
    assert notes == ["the interaction of row and column cannot be told: combinations are missing"]
    diagonal = {name: settings[name] for name in ("ay", "bx")}
    main, together, notes = find_effects(diagonal, levels, factors)
    assert (main, together) == ({}, {})
    assert "too few combinations" in notes[0]
    alone = {name: settings[name] for name in ("ax", "ay")}
    assert find_effects(alone, levels, factors) == ({}, {}, [])
