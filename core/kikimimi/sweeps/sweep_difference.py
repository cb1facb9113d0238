"""What differs between two sweeps in meaning: the recipe that they vary, factors, settings and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kikimimi.errors import KikimimiError
from kikimimi.inspect.difference import Differing, find_difference
from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.factor import SEED_OPTION, Factor
from kikimimi.sweeps.run_result import RunResult
from kikimimi.sweeps.setting_tests import holm
from kikimimi.sweeps.summarise import evaluate_settings, read_results
from kikimimi.sweeps.summary import SettingPair
from kikimimi.sweeps.sweep_folder import SweepFolder

_ONE, _OTHER = "the one", "the other"


@dataclass(frozen=True, kw_only=True)
class SettingDifference:
    """How a setting scores on an evaluation in two sweeps.

    Attributes:
        setting: What tables call it.
        evaluation: Name of the evaluation.
        unit: Unit of the values; may be empty.
        one: Mean over seeds in the one sweep.
        other: Mean over seeds in the other.
        pair: The comparison of the other with the one: its value less that of the one, the interval over
            seeds and clips, and p by Holm over all that are made; None where there is none.
        notes: Why there is none, or what it does not cover.
    """

    setting: str
    evaluation: str
    unit: str
    one: float
    other: float
    pair: SettingPair | None
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class SweepDifference:
    """All that differs between two sweeps.

    Attributes:
        items: What differs, by section: of the recipe those of `Difference`; then ``factors``, ``settings``.
        scores: Scores of settings that both have.
        notes: What could not be compared.
    """

    items: Mapping[str, Sequence[Differing]] = field(default_factory=dict)
    scores: Sequence[SettingDifference] = ()
    notes: Sequence[str] = ()


def find_sweep_difference(one: SweepFolder, other: SweepFolder) -> SweepDifference:
    """Compare two sweeps, which may be running.

    Raises:
        DamagedError: The folder of a sweep is damaged; what is wrong with runs is said instead.
    """
    found: dict[str, Sequence[Differing]] = {}
    notes: list[str] = []
    results = [_by_setting(side) for side in (one, other)]
    try:
        if (runs := _run_of_both(*results)) is not None:
            # Their file may have been changed since; and runs are locked to data and versions.
            items = find_difference(*runs).items
        else:
            recipes = [load_recipe(side.sweep.recipe, side.sweep.changes) for side in (one, other)]
            items = find_difference(*recipes).items
        varied = any(factor.name == SEED_OPTION for side in (one, other) for factor in side.sweep.factors)
        for section, differing in items.items():
            if kept := [item for item in differing if not (varied and item.item == SEED_OPTION)]:
                found[section] = kept
    except KikimimiError as error:
        notes.append(f"their recipes are not compared: {error}")
    sides = [dict(_factors(side)) for side in (one, other)]
    if factors := _differing(*sides):
        found["factors"] = factors
    held = [dict.fromkeys(side, "there") for side in results]
    if settings := _differing(*held):
        found["settings"] = settings
    notes += [
        problem for side in results for runs in side.values() for one in runs for problem in one.problems
    ]
    return SweepDifference(items=found, scores=_corrected(list(_scores(*results))), notes=notes)


def _run_of_both(
    one: Mapping[str, list[RunResult]], other: Mapping[str, list[RunResult]]
) -> list[RunFolder] | None:
    """Return a run of each of one setting, of the same seed and not the same run where there are such."""
    pairs = [
        (first, second)
        for setting in one
        for first in one[setting]
        for second in other.get(setting, ())
        if first.recipe is not None and second.recipe is not None
    ]
    if not pairs:
        return None
    chosen = min(
        pairs,
        key=lambda pair: (
            pair[0].run.seed != pair[1].run.seed,
            pair[0].run.path.resolve() == pair[1].run.path.resolve(),
        ),
    )
    return [RunFolder(one.run.path, one.recipe) for one in chosen if one.recipe is not None]


def _factors(side: SweepFolder) -> Iterator[tuple[str, Any]]:
    for factor in side.sweep.factors:
        if isinstance(factor, Factor):
            plain = all(level.changes == (f"{factor.name}={level.label}",) for level in factor.levels)
            yield (
                factor.name,
                [level.label for level in factor.levels]
                if plain
                else {level.label: list(level.changes) for level in factor.levels},
            )
        else:
            yield factor.name, f"{factor.low:g}..{factor.high:g}{':log' if factor.log else ''}"


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Differing]:
    return [
        Differing(item, one.get(item), other.get(item))
        for item in dict.fromkeys([*one, *other])
        if one.get(item) != other.get(item)
    ]


def _by_setting(side: SweepFolder) -> dict[str, list[RunResult]]:
    found: dict[str, list[RunResult]] = {}
    for result in read_results(side):
        found.setdefault(result.run.setting or side.sweep.name, []).append(result)
    return found


def _scores(
    one: Mapping[str, list[RunResult]], other: Mapping[str, list[RunResult]]
) -> Iterator[SettingDifference]:
    for setting in (name for name in one if name in other):
        runs = {_ONE: one[setting], _OTHER: other[setting]}
        names = [[name for result in side for name in result.scores] for side in runs.values()]
        for name in dict.fromkeys(name for name in names[0] if name in names[1]):
            yield _compared(setting, name, runs)


def _compared(setting: str, name: str, runs: dict[str, list[RunResult]]) -> SettingDifference:
    evaluation, scores = evaluate_settings(name, runs, {})
    paths = [
        {result.run.path.resolve() for result in side if name in result.scores} for side in runs.values()
    ]
    pair, notes = next(iter(evaluation.pairs), None), list(evaluation.notes)
    if paths[0] == paths[1]:
        pair, notes = None, ["the same runs"]
    elif pair is not None and pair.one == _ONE:
        # Less from nothing, not with another sign: no zero is negative.
        pair = replace(
            pair,
            one=_OTHER,
            other=_ONE,
            difference=0 - pair.difference,
            low=0 - pair.high,
            high=0 - pair.low,
        )
    values = [scores[side].value if side in scores else _mean(runs[side], name) for side in runs]
    return SettingDifference(
        setting=setting,
        evaluation=name,
        unit=evaluation.unit,
        one=values[0],
        other=values[1],
        pair=pair,
        notes=notes,
    )


def _mean(results: Sequence[RunResult], name: str) -> float:
    values = [result.scores[name].score.value for result in results if name in result.scores]
    return sum(values) / len(values)


def _corrected(scores: list[SettingDifference]) -> list[SettingDifference]:
    pairs = [one.pair.p for one in scores if one.pair is not None]
    corrected = iter(holm(pairs))
    return [
        one if one.pair is None else replace(one, pair=replace(one.pair, p=next(corrected))) for one in scores
    ]
