"""Whether the setting with the best value is better than the others, and what would settle what is open."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import atan, cos, pi, sin, sqrt
from statistics import NormalDist

import numpy as np

from kikimimi.console.words import counted
from kikimimi.evaluation.bootstrap import DRAWS, SEED as BOOTSTRAP_SEED
from kikimimi.sweeps.seed_draws import QUANTILES, REPEATS, Draws, SeedDraws
from kikimimi.sweeps.summary import SettingPair

POWER = 0.8
"""Probability with which as many seeds as are said would settle a comparison."""
ALPHA = 0.05
_MOST_SEEDS = 100
_FEW_DRAWS = 20
_LEAST_P = 1e-12
_MOST_FREEDOM = 1000


def compare_best(settings: Mapping[str, SeedDraws], better: str) -> list[SettingPair]:
    """Compare the setting with the best value with every other one.

    Args:
        settings: What was drawn of each setting.
        better: ``lower`` or ``higher``: which values are better.

    Returns:
        A comparison with each, in the settings' order. P values are corrected by Holm (1979) for the
        comparisons of every two settings, as the one with the best value was chosen by looking at all.
    """
    if len(settings) < 2:
        return []
    choose = min if better == "lower" else max
    best = choose(settings, key=lambda name: settings[name].value)
    others = [name for name in settings if name != best]
    first = settings[best]
    raw = [_p(first, settings[name]) for name in others]
    pairs = []
    every = len(settings) * (len(settings) - 1) // 2
    for name, p in zip(others, holm(raw, every), strict=True):
        other = settings[name]
        low, high = np.quantile(first.drawn - other.drawn, QUANTILES).tolist()
        difference = first.value - other.value
        needed = "" if p < ALPHA else seeds_needed(first, other, every)
        pairs.append(
            SettingPair(one=best, other=name, difference=difference, low=low, high=high, p=p, needed=needed)
        )
    return pairs


def holm(values: Sequence[float], comparisons: int | None = None) -> list[float]:
    """Return corrected p values (Holm, 1979, Scand. J. Statist. 6).

    Args:
        values: The p values.
        comparisons: How many comparisons they are of, where there are more of which no value is known; None
            is as many as there are values.
    """
    comparisons = len(values) if comparisons is None else comparisons
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    largest = 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, (comparisons - rank) * values[number]))
        found[number] = largest
    return found


def best_settings(best: str, pairs: Sequence[SettingPair]) -> frozenset[str]:
    """Return the setting with the best value, and those that are not told apart from it; none if none are."""
    if not any(pair.settled for pair in pairs):
        return frozenset()
    return frozenset({best, *(pair.other for pair in pairs if not pair.settled)})


def seeds_needed(one: SeedDraws, other: SeedDraws, comparisons: int) -> str:
    """Return what would settle a comparison, if the difference is as large as it seems.

    The variance of the difference is that of the seeds, which goes down with their number, and that of the
    clips, which does not.

    Args:
        one: The one setting.
        other: The other one.
        comparisons: How many are made: each is tested at a level that much smaller.
    """
    if one.spread is None or other.spread is None:
        return "more seeds: of one seed it cannot be told how far seeds scatter"
    difference = abs(one.value - other.value)
    if difference == 0:
        return "nothing that can be told: their values are equal"
    clips = _clip_variance(one, other)
    normal = NormalDist()
    reach = normal.inv_cdf(1 - ALPHA / (2 * comparisons)) + normal.inv_cdf(POWER)
    if clips >= (difference / reach) ** 2:
        return "more clips: with these, no number of seeds would settle it"
    spreads = (one.spread, other.spread)
    before = (one.freedom - one.seeds, other.freedom - other.seeds)
    numbers = range(max(one.seeds, other.seeds) + 1, _MOST_SEEDS + 1)
    enough = bisect_left(
        numbers, True, key=lambda seeds: difference >= _settled_at(seeds, spreads, before, clips, comparisons)
    )
    if enough == len(numbers):
        return f"more than {_MOST_SEEDS} seeds of each"
    more = numbers[enough] - min(one.seeds, other.seeds)
    return f"about {counted(more, 'more seed')} of each"


def _settled_at(
    seeds: int, spreads: tuple[float, float], before: tuple[int, int], clips: float, comparisons: int
) -> float:
    """Return the true difference that is settled with a probability of `POWER` by so many seeds of each.

    Seeds scatter in the test by Student's t, which for few of them is far wider than the normal.
    """
    one, other, normal = _scatter(seeds + before[0], seeds + before[1])
    drawn = (spreads[0] * one + spreads[1] * other) / sqrt(seeds) + sqrt(clips) * normal
    told = float(np.quantile(drawn, 1 - ALPHA / (2 * comparisons)))
    scatter = sqrt((spreads[0] ** 2 + spreads[1] ** 2) / seeds + clips)
    return told + NormalDist().inv_cdf(POWER) * scatter


@lru_cache(maxsize=_MOST_SEEDS)
def _scatter(one: int, other: int) -> tuple[Draws, Draws, Draws]:
    """Return draws of two means with so many degrees of freedom, and normal ones for the clips."""
    random = np.random.default_rng([BOOTSTRAP_SEED, one, other])
    number = DRAWS * REPEATS
    return random.standard_t(one, number), random.standard_t(other, number), random.standard_normal(number)


def _p(one: SeedDraws, other: SeedDraws) -> float:
    """Return the two-sided p of no difference; it is never 0.

    Draws tell it, and where too few of them lie beyond zero, Student's t with the fewer degrees of freedom,
    which is never below the true p (Hsu, 1938; Scheffe, 1970, J. Am. Stat. Assoc. 65).
    """
    differences = one.drawn - other.drawn
    beyond = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    drawn = min(1.0, 2 * (beyond + 1) / (len(differences) + 1))
    variance = _clip_variance(one, other)
    for side in (one, other):
        variance += (side.spread or 0.0) ** 2 / side.seeds
    if beyond >= _FEW_DRAWS or variance == 0:
        return drawn
    known = [side.freedom for side in (one, other) if side.spread is not None]
    return min(drawn, student_p(abs(one.value - other.value) / sqrt(variance), min(known) if known else None))


def _clip_variance(one: SeedDraws, other: SeedDraws) -> float:
    if not len(one.by_clips) == len(other.by_clips) > 1:
        return 0.0
    return float(np.var(one.by_clips - other.by_clips))


def student_p(t: float, freedom: int | None) -> float:
    """Return how probable a value as far from 0 as this is by Student's t; never below 1e-12.

    Args:
        t: The value, not negative.
        freedom: Degrees of freedom; None is the normal.

    Source: Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.
    """
    if freedom is None or freedom > _MOST_FREEDOM:
        within = 2 * NormalDist().cdf(t) - 1
    else:
        angle = atan(t / sqrt(freedom))
        term = cos(angle) if freedom % 2 else 1.0
        total = 0.0
        for power in range(3 if freedom % 2 else 2, freedom + 1, 2):
            total += term
            term *= cos(angle) ** 2 * (power - 1) / power
        within = (angle + sin(angle) * total) * 2 / pi if freedom % 2 else sin(angle) * total
    return max(1 - within, _LEAST_P)
