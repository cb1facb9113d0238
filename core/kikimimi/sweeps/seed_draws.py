"""How far the mean of a setting would move with other clips and other seeds.

Two levels are drawn. Clips by the bootstrap, the same ones for every setting, so that settings are compared
on the same clips. Seeds by Student's t: two or three values that are drawn again with replacement span too
little (of equal settings with two seeds, one in five would be said to differ). How far seeds scatter is
pooled over all settings, as an analysis of variance does, since two seeds of one setting say little of it; a
setting whose own seeds scatter more has its own variance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kikimimi.contracts.metric import Details, Metric
from kikimimi.evaluation.bootstrap import DRAWS, SEED as BOOTSTRAP_SEED, drawn_values, group_sums

REPEATS = 20
"""Draws of seeds for each draw of clips."""
QUANTILES = (0.025, 0.975)
"""Quantiles between which 95 % lie."""

Draws = NDArray[np.float64]


@dataclass(frozen=True)
class SeedScatter:
    """How far the seeds of settings scatter.

    Attributes:
        variance: Mean variance of the seeds of a setting, those with more seeds weighing more.
        freedom: Degrees of freedom: seeds beyond the first of each setting.
    """

    variance: float
    freedom: int


def pool_seeds(settings: Iterable[Sequence[float]]) -> SeedScatter | None:
    """Return how far seeds scatter, from the values of each setting's; None where no setting has two."""
    several = [values for values in settings if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return None
    squares = sum(float(np.var(values)) * len(values) for values in several)
    return SeedScatter(squares / freedom, freedom)


@dataclass(frozen=True, kw_only=True)
class SeedDraws:
    """A setting's mean over its seeds, as it was measured and as it was drawn.

    Attributes:
        value: Mean over seeds, in the metric's unit.
        spread: Standard deviation over seeds that it is drawn with; None where no setting has two seeds.
        seeds: How many seeds there are.
        freedom: Degrees of freedom of that deviation; 0 where there is none.
        by_clips: Means over seeds on drawn clips, (DRAWS,); one number where there are no clips.
        drawn: Means on drawn clips and seeds, (DRAWS x REPEATS,).
    """

    value: float
    spread: float | None
    seeds: int
    freedom: int
    by_clips: Draws
    drawn: Draws

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the 95 % interval; None where nothing varies that could be drawn."""
        if self.spread is None and len(self.by_clips) == 1:
            return None
        low, high = np.quantile(self.drawn, QUANTILES).tolist()
        return low, high


def draw_setting(
    values: Sequence[float], by_clips: Draws | None, number: int, scatter: SeedScatter | None = None
) -> SeedDraws:
    """Draw the mean of a setting.

    Args:
        values: Value of each seed on all clips.
        by_clips: Mean over seeds on drawn clips, (DRAWS,); None where details of clips are not known.
        number: Number of the setting: each has its own draws of seeds.
        scatter: How far the seeds of all settings scatter; None takes this one's alone.
    """
    mean = float(np.mean(values))
    clips = np.array([mean]) if by_clips is None else by_clips
    own = pool_seeds([values])
    scatter = scatter or own
    around = np.resize(clips, DRAWS)[:, None]
    spread = None
    if scatter is None:
        drawn = np.broadcast_to(around, (DRAWS, REPEATS))
    else:
        spread = float(np.sqrt(max(scatter.variance, own.variance if own else 0.0)))
        random = np.random.default_rng([BOOTSTRAP_SEED, number])
        drawn = around + spread / np.sqrt(len(values)) * random.standard_t(scatter.freedom, (DRAWS, REPEATS))
    return SeedDraws(
        value=mean,
        spread=spread,
        seeds=len(values),
        freedom=scatter.freedom if scatter else 0,
        by_clips=clips,
        drawn=drawn.reshape(-1),
    )


def mean_by_clips(
    metric: Metric,
    seeds: Sequence[Mapping[str, Details]],
    keys: Sequence[str],
    groups: Mapping[str, str] | None = None,
) -> Draws | None:
    """Return the mean over seeds of a metric's value on drawn clips.

    Args:
        metric: The metric.
        seeds: Details by clip of each seed.
        keys: The clips that are drawn from; settings with the same keys have the same draws.
        groups: What each clip belongs to, such as its speaker: groups are drawn whole. None draws clips.

    Returns:
        (DRAWS,); None of fewer than two clips or groups, or where a draw has no value.
    """
    if len(keys) < 2:
        return None
    drawn = []
    for details in seeds:
        names = list(details[keys[0]])
        table = np.array([[details[key][name] for name in names] for key in keys], np.float64)
        if groups is not None:
            table = group_sums(table, [groups[key] for key in keys])
        values = drawn_values(metric, names, table) if len(table) > 1 else None
        if values is None:
            return None
        drawn.append(values)
    mean: Draws = np.mean(drawn, axis=0)
    return mean
