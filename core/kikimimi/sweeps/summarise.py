"""Makes the summary of a sweep from its folder, whatever is there of it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from statistics import fmean
from typing import Any

from kikimimi.console.terminal import json_text
from kikimimi.contracts.metric import Details, Metric
from kikimimi.errors import KikimimiError
from kikimimi.evaluation.clip_details import clip_groups
from kikimimi.evaluation.record import as_scored
from kikimimi.inspect.describe import describe
from kikimimi.recipe import Recipe
from kikimimi.recipe.show import plain
from kikimimi.run.drift import flat
from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.effects import find_effects
from kikimimi.sweeps.factor import SEED_OPTION, Factor
from kikimimi.sweeps.run_result import RunResult, RunScore, read_result
from kikimimi.sweeps.seed_draws import Draws, SeedDraws, draw_setting, mean_by_clips, pool_seeds
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
    scored = dict.fromkeys(name for result in results for name in result.scores)
    names = [name for name in folder.sweep.compare or scored if name in scored]
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
    curves = {result.run.seed: result.curve for result in finished if result.curve}
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
        # One that failed early, or has just begun, would cut the mean over seeds where it ends.
        curves=curves or {result.run.seed: result.curve for result in runs if result.curve},
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
    kinds = Counter(_kind(one) for seeds in scored.values() for one in seeds.values())
    same = kinds.most_common(1)[0][0]
    kind = next(one.score for seeds in scored.values() for one in seeds.values() if _kind(one) == same)
    notes = []
    if others := list(_names_of(scored, lambda one: _kind(one) != same)):
        notes.append(
            "scored on other clips, or with another metric or normaliser, and not compared: "
            + "; ".join(others)
        )
    scored = {
        setting: {seed: one for seed, one in seeds.items() if _kind(one) == same}
        for setting, seeds in scored.items()
    }
    scored = {setting: seeds for setting, seeds in scored.items() if seeds}
    left_out = {
        "a seed was pruned, so that the mean of the others looks better than it is": [
            setting for setting in scored if any(one.state.state == "pruned" for one in settings[setting])
        ],
        "not valid": list(_names_of(scored, lambda one: one.score.invalid is not None)),
    }
    for why, names in left_out.items():
        if names:
            of = "all settings" if len(names) == len(scored) else "; ".join(names)
            notes.append(f"{why}, and not compared: {of}")
    whole = {
        setting: seeds
        for setting, seeds in scored.items()
        if all(one.state.state != "pruned" for one in settings[setting])
        and all(one.score.invalid is None for one in seeds.values())
    }
    scored = whole or scored
    metric, keys = _shared(scored)
    groups = None
    if (by := kind.interval_by) is not None and metric is not None:
        groups = _groups(name, by, [runs for setting, runs in settings.items() if setting in scored], keys)
        if groups is None:
            notes.append(f"intervals and tests draw clips, as the data that tells groups by {by} is gone")
        else:
            notes.append(
                f"intervals and tests draw whole groups by {by}, {len({*groups.values()}):,} of them"
            )
    clips: dict[str, Draws] = {}
    for setting, seeds in scored.items():
        if metric is None:
            break
        means = mean_by_clips(metric, [_details(one) for one in seeds.values()], keys, groups)
        if means is None:
            clips.clear()
            break
        clips[setting] = means
    drawn: dict[str, SeedDraws] = {}
    scatter = pool_seeds([[one.score.value for one in seeds.values()] for seeds in scored.values()])
    for number, (setting, seeds) in enumerate(scored.items()):
        values = [one.score.value for one in seeds.values()]
        drawn[setting] = draw_setting(values, clips.get(setting), number, scatter)
    if not clips:
        notes.append("intervals and tests are over seeds alone: nothing can be drawn clip by clip")
    if scatter is None:
        notes.append("one seed of every setting: intervals and tests say nothing of other seeds")
    elif alone := [setting for setting, one in drawn.items() if one.seeds == 1]:
        notes.append(f"one seed of {'; '.join(alone)}: how far seeds scatter is that of the others")
    told = whole and (clips or scatter is not None)
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
        if low is not None and high is not None and kind.unit == "%":
            # Seeds are drawn without knowing that shares end there; error rates go beyond 100.
            low, high = max(low, 0.0), high if kind.better == "lower" else min(high, 100.0)
        scores[setting] = SettingScore(
            value=one.value,
            low=low,
            high=high,
            seeds={seed: found.score.value for seed, found in scored[setting].items()},
            best=setting in best,
            parts=_parts([run.parts for run in scored[setting].values()]),
        )
    return found, scores


def _names_of(
    scored: Mapping[str, Mapping[str, RunScore]], wanted: Callable[[RunScore], bool]
) -> Iterator[str]:
    """Yield the settings whose scores are of a kind; where not all of a setting are, their seeds, too."""
    for setting, seeds in scored.items():
        found = [seed for seed, one in seeds.items() if wanted(one)]
        if found:
            yield setting if len(found) == len(seeds) else f"{setting} (seed {', '.join(found)})"


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


def _groups(
    name: str, field: str, settings: Sequence[Sequence[RunResult]], keys: Sequence[str]
) -> dict[str, str] | None:
    """Return what each clip belongs to where intervals draw groups; None where no run's data tells it."""
    for result in (one for runs in settings for one in runs if name in one.scores and one.recipe is not None):
        assert result.recipe is not None
        with suppress(KikimimiError, OSError):
            digest, groups = clip_groups(as_scored(RunFolder(result.run.path, result.recipe)), name, field)
            if digest == result.scores[name].data and groups.keys() >= {*keys}:
                return {key: groups[key] for key in keys}
    return None


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
            parts = describe(recipe, run.assets if run.has_assets else None)
        except (KikimimiError, OSError):
            return None
        known = [one.trainable for one in parts if one.trainable is not None and one.problem is None]
        return sum(known) if len(known) == len(parts) else None  # no lower bounds beside exact numbers
