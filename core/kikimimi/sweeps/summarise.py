"""Makes the summary of a sweep from its folder, whatever is there of it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from kikimimi.console.terminal import json_text
from kikimimi.contracts.metric import Details, Metric
from kikimimi.errors import KikimimiError
from kikimimi.inspect.describe import describe
from kikimimi.recipe import Recipe
from kikimimi.recipe.show import plain
from kikimimi.run.drift import flat
from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.effects import find_effects
from kikimimi.sweeps.factor import SEED_OPTION, Factor
from kikimimi.sweeps.run_result import RunResult, RunScore, read_result
from kikimimi.sweeps.seed_draws import SeedDraws, draw_setting, mean_by_clips, pool_seeds
from kikimimi.sweeps.setting_tests import best_settings, compare_best
from kikimimi.sweeps.summary import (
    EvaluationSummary,
    SettingScore,
    SettingSummary,
    SweepSummary,
    UnfinishedRun,
)
from kikimimi.sweeps.sweep_folder import SweepFolder

_Settings = dict[str, list[RunResult]]


def read_results(folder: SweepFolder) -> list[RunResult]:
    """Read what each run of a sweep has come to."""
    states, times = folder.states(), folder.times()
    return [
        read_result(run, states[run.name], times.get(run.name), folder.sweep.compare) for run in folder.runs
    ]


def summarise(folder: SweepFolder, results: Sequence[RunResult]) -> SweepSummary:
    """Summarise a sweep.

    Args:
        folder: The sweep's folder.
        results: What its runs have come to.
    """
    settings: _Settings = {}
    for result in results:
        settings.setdefault(result.run.setting or folder.sweep.name, []).append(result)
    names = list(dict.fromkeys(name for result in results for name in result.scores))
    evaluations, scores = [], dict[str, dict[str, SettingScore]]()
    for name in names:
        evaluation, of_settings = evaluate_settings(name, settings, folder.factors)
        evaluations.append(evaluation)
        for setting, score in of_settings.items():
            scores.setdefault(setting, {})[name] = score
    trainable = _Trainable()
    summaries = [_setting(name, runs, scores.get(name, {}), trainable) for name, runs in settings.items()]
    if evaluations:
        first = evaluations[0]
        sign = 1 if first.better == "lower" else -1
        summaries.sort(
            key=lambda one: (
                first.name not in one.scores,
                sign * one.scores[first.name].value if first.name in one.scores else 0,
            )
        )
    seeds = next((one for one in folder.sweep.factors if one.name == SEED_OPTION), None)
    return SweepSummary(
        name=folder.sweep.name,
        recipe=str(folder.sweep.recipe),
        factors=folder.factors,
        seeds=[level.label for level in seeds.levels] if isinstance(seeds, Factor) else [],
        search=folder.sweep.search,
        settings=summaries,
        evaluations=evaluations,
        unfinished=[
            UnfinishedRun(
                setting=result.run.setting,
                seed=result.run.seed,
                state=result.state.state,
                cause=result.state.cause,
                log=str(folder.log(result.run).relative_to(folder.path)),
            )
            for result in results
            if result.state.state != "finished"
        ],
        states=Counter(result.state.state for result in results),
        differs=_differs(settings),
        notes=[problem for result in results for problem in result.problems],
        command=f"kikimimi sweep {shlex.quote(str(folder.path))}",
    )


def _setting(
    name: str, runs: Sequence[RunResult], scores: Mapping[str, SettingScore], trainable: _Trainable
) -> SettingSummary:
    finished = [result for result in runs if result.state.state == "finished"]
    seconds = [result.seconds for result in finished if result.seconds is not None]
    speeds = [result.speed for result in finished if result.speed is not None]
    memory = [result.memory for result in runs if result.memory is not None]
    recipe = next((result for result in runs if result.recipe is not None), None)
    return SettingSummary(
        name=name,
        levels=runs[0].run.levels,
        scores=scores,
        finished=len(finished),
        runs=len(runs),
        trainable=None if recipe is None else trainable.of(recipe),
        seconds=fmean(seconds) if seconds else None,
        speed=fmean(speeds) if speeds else None,
        memory=max(memory) if memory else None,
        curves={result.run.seed: result.curve for result in runs if result.curve},
    )


def evaluate_settings(
    name: str, settings: _Settings, factors: Mapping[str, Sequence[str]]
) -> tuple[EvaluationSummary, dict[str, SettingScore]]:
    """Return an evaluation, and how each setting scores on it.

    Args:
        name: Name of the evaluation, which at least one run was scored on.
        settings: Runs of each setting.
        factors: Labels of the levels of each factor.
    """
    scored = {
        setting: {
            result.run.seed or result.run.name: result.scores[name]
            for result in runs
            if name in result.scores
        }
        for setting, runs in settings.items()
    }
    scored = {setting: seeds for setting, seeds in scored.items() if seeds}
    first = next(iter(next(iter(scored.values())).values()))
    kind, same = first.score, _kind(first)
    notes = []
    others = [
        setting for setting, seeds in scored.items() if any(_kind(one) != same for one in seeds.values())
    ]
    if others:
        notes.append(
            "scored on other clips, or with another metric or normaliser, and not compared: "
            + "; ".join(others)
        )
        scored = {setting: seeds for setting, seeds in scored.items() if setting not in others}
    pruned = [setting for setting in scored if any(one.state.state == "pruned" for one in settings[setting])]
    if pruned:
        notes.append(
            "a seed was pruned, so that the mean of the others looks better than it is, and not compared: "
            + ("all settings" if len(pruned) == len(scored) else "; ".join(pruned))
        )
    whole = {setting: seeds for setting, seeds in scored.items() if setting not in pruned}
    scored = whole or scored
    metric, keys = _shared(scored)
    drawn: dict[str, SeedDraws] = {}
    scatter = pool_seeds([[one.score.value for one in seeds.values()] for seeds in scored.values()])
    for number, (setting, seeds) in enumerate(scored.items()):
        values = [one.score.value for one in seeds.values()]
        clips = None
        if metric is not None:
            details = [_details(one) for one in seeds.values()]
            clips = mean_by_clips(metric, details, keys)
        drawn[setting] = draw_setting(values, clips, number, scatter)
    if metric is None:
        notes.append("intervals and tests are over seeds alone: scores cannot be told clip by clip")
    if scatter is None:
        notes.append("one seed of every setting: intervals and tests say nothing of other seeds")
    elif alone := [setting for setting, one in drawn.items() if one.seeds == 1]:
        notes.append(f"one seed of {'; '.join(alone)}: how far seeds scatter is that of the others")
    told = whole and (metric is not None or scatter is not None)
    pairs = compare_best(drawn, kind.better) if told else []
    best = best_settings(pairs[0].one, pairs) if pairs else frozenset[str]()
    levels = {setting: runs[0].run.levels for setting, runs in settings.items()}
    effects, interactions, untold = find_effects(drawn, levels, factors if whole else {})
    found = EvaluationSummary(
        name=name,
        label=kind.label,
        unit=kind.unit,
        better=kind.better,
        clips=len(keys) or kind.count,
        effects=effects,
        interactions=interactions,
        pairs=pairs,
        notes=[*notes, *untold],
    )
    scores = {}
    for setting, one in drawn.items():
        low, high = one.interval or (None, None)
        if low is not None and kind.unit == "%":
            low = max(low, 0.0)  # seeds are drawn without knowing that shares end there
        scores[setting] = SettingScore(
            value=one.value,
            low=low,
            high=high,
            seeds={seed: found.score.value for seed, found in scored[setting].items()},
            best=setting in best,
            parts=_parts([run.parts for run in scored[setting].values()]),
        )
    return found, scores


def _kind(one: RunScore) -> tuple[str, ...]:
    """Return what scores that are compared have in common."""
    return one.score.metric, one.score.normaliser, one.score.unit, one.data


def _shared(scored: Mapping[str, Mapping[str, RunScore]]) -> tuple[Metric | None, list[str]]:
    """Return the metric, and the clips that every run was scored on; no metric where they cannot be told."""
    runs = [one for seeds in scored.values() for one in seeds.values()]
    clips = [one.clips for one in runs if one.clips is not None]
    if len(clips) < len(runs):
        return None, []
    keys = [key for key in clips[0].details if all(one.details.get(key) is not None for one in clips)]
    return (clips[0].metric, keys) if len(keys) > 1 else (None, keys)


def _details(one: RunScore) -> dict[str, Details]:
    assert one.clips is not None
    return {key: details for key, details in one.clips.details.items() if details is not None}


def _parts(
    seeds: Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]],
) -> dict[str, dict[str, float]]:
    """Return the means over seeds of the values of parts."""
    return {
        field: {
            group: fmean(parts[field][group]["value"] for parts in seeds)
            for group in groups
            if all(group in parts.get(field, {}) for parts in seeds)
        }
        for field, groups in (seeds[0].items() if seeds else ())
    }


def _differs(settings: _Settings) -> dict[str, dict[str, str]]:
    """Return the options in which the recipes of settings differ."""
    options: dict[str, dict[str, Any]] = {}
    for setting, runs in settings.items():
        recipe = next((result.recipe for result in runs if result.recipe is not None), None)
        if recipe is not None:
            options[setting] = dict(_options(recipe))
    items = dict.fromkeys(item for held in options.values() for item in held)
    found = {}
    for item in items:
        values = {setting: held.get(item) for setting, held in options.items()}
        if len({json_text(value) for value in values.values()}) > 1:
            found[item] = {
                setting: "" if value is None else value if isinstance(value, str) else json_text(value)
                for setting, value in values.items()
            }
    return found


def _options(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    yield from ((item, value) for item, value in flat(plain(recipe), "") if item != SEED_OPTION)


class _Trainable:
    """Counts what some stage trains, once for parts that are the same."""

    def of(self, result: RunResult) -> int | None:
        """Return how many parameters a run trains; None where that cannot be told."""
        recipe = result.recipe
        assert recipe is not None
        parts = repr(
            (recipe.encoder, recipe.adapter, recipe.llm, [one.train for one in recipe.stages.values()])
        )
        if parts not in self._found:
            self._found[parts] = self._count(result, recipe)
        return self._found[parts]

    def __init__(self) -> None:
        self._found: dict[str, int | None] = {}

    @staticmethod
    def _count(result: RunResult, recipe: Recipe) -> int | None:
        run = RunFolder(result.run.path, recipe)
        try:
            counts = [one.trainable for one in describe(recipe, run.assets if run.has_assets else None)]
        except (KikimimiError, OSError):
            return None
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None
