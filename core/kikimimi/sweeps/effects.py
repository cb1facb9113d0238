"""What levels of factors do: main effects and two-way interactions, by least squares over settings.

Factors are coded so that the effects of a factor's levels sum to zero (effect coding): a main effect is what
a level adds to the mean of all settings, an interaction what two levels add together beside their main
effects. As effects are sums of the settings' means, drawn means give their intervals.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kikimimi.sweeps.seed_draws import QUANTILES, SeedDraws
from kikimimi.sweeps.summary import Effect

_DIGITS = 9  # what lies below is what sums of floats leave
_Column = NDArray[np.float64]
_Labels = Mapping[str, str]
MainEffects = dict[str, list[Effect]]
Interactions = dict[tuple[str, str], list[Effect]]


def find_effects(
    settings: Mapping[str, SeedDraws], levels: Mapping[str, _Labels], factors: Mapping[str, Sequence[str]]
) -> tuple[MainEffects, Interactions, list[str]]:
    """Find the effects of two or more factors.

    Args:
        settings: What was drawn of each setting, by its name.
        levels: Labels of each setting's levels.
        factors: Labels of the levels of each factor.

    Returns:
        Main effects by factor, interactions by pairs of factors, and which of them cannot be told, in words:
        settings are missing for them. Nothing where only one factor varies: the settings' own values say it.
    """
    there = {
        name: [label for label in labels if any(levels[one][name] == label for one in settings)]
        for name, labels in factors.items()
    }
    there = {name: labels for name, labels in there.items() if len(labels) > 1}
    if len(there) < 2:
        return {}, {}, []
    means = np.array([one.value for one in settings.values()])
    drawn = np.array([one.drawn for one in settings.values()])
    rows = [levels[name] for name in settings]
    notes = []
    main: MainEffects = {}
    columns = {name: _coded(rows, name, labels) for name, labels in there.items()}
    solved = _solve([*columns.values()])
    if solved is None:
        return {}, {}, ["main effects cannot be told: too few combinations of the levels are finished"]
    for name, weights in zip(columns, solved, strict=True):
        rows_of = zip(there[name], _with_last(weights), strict=True)
        main[name] = [_effect({name: label}, row, means, drawn) for label, row in rows_of]
    together: Interactions = {}
    for one, other in itertools.combinations(there, 2):
        both = [first * second for first, second in itertools.product(columns[one].T, columns[other].T)]
        solved = _solve([*columns.values(), np.array(both).T])
        if solved is None:
            notes.append(f"the interaction of {one} and {other} cannot be told: combinations are missing")
            continue
        weights = solved[-1].reshape(columns[one].shape[1], columns[other].shape[1], -1)
        whole = _with_last(_with_last(weights).swapaxes(0, 1)).swapaxes(0, 1)
        found = []
        for (i, first), (j, second) in itertools.product(enumerate(there[one]), enumerate(there[other])):
            found.append(_effect({one: first, other: second}, whole[i, j], means, drawn))
        together[one, other] = found
    return main, together, notes


def _coded(rows: Sequence[_Labels], name: str, labels: Sequence[str]) -> _Column:
    """Return a factor's columns: 1 at a level's settings, -1 at the last level's, 0 elsewhere."""
    index = np.array([labels.index(row[name]) for row in rows])
    coded = np.zeros((len(rows), len(labels) - 1))
    for number in range(len(labels) - 1):
        coded[index == number, number] = 1
    coded[index == len(labels) - 1] = -1
    return coded


def _solve(blocks: Sequence[_Column]) -> list[_Column] | None:
    """Return for each block what its coefficients are as sums of the settings' means, (columns, settings).

    Returns:
        The sums; None where the settings do not tell the coefficients apart.
    """
    design = np.concatenate([np.ones((len(blocks[0]), 1)), *blocks], axis=1)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    inverse: _Column = np.linalg.pinv(design).astype(np.float64)
    ends = np.cumsum([1, *(block.shape[1] for block in blocks)])
    return [inverse[begin:end] for begin, end in itertools.pairwise(ends)]


def _with_last(weights: _Column) -> _Column:
    """Add the last level, whose effect is what makes the sum zero."""
    return np.concatenate([weights, -weights.sum(axis=0, keepdims=True)])


def _effect(levels: _Labels, weights: _Column, means: _Column, drawn: _Column) -> Effect:
    low, high = np.quantile(weights @ drawn, QUANTILES).tolist()
    value, low, high = (round(number, _DIGITS) + 0.0 for number in (float(weights @ means), low, high))
    return Effect(levels=levels, value=value, low=low, high=high)
