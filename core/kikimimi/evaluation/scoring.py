"""The scores of an evaluation's systems, how they differ, and what they are of its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kikimimi.console.terminal import say
from kikimimi.contracts.metric import Details, Metric, Score, open_metric
from kikimimi.errors import DamagedError
from kikimimi.evaluation.asked import AskedEvaluation
from kikimimi.evaluation.bootstrap import Comparison, compare
from kikimimi.evaluation.breakdown import break_down
from kikimimi.evaluation.predictions import Predictions
from kikimimi.evaluation.record import (
    RECORD,
    ScoredSystem,
    find_scoring,
    keep_scoring,
    read_scorings,
    values_of,
)
from kikimimi.evaluation.score import comparisons_of, read_scores
from kikimimi.run.folder import RunFolder


def write_scores(
    run: RunFolder, asked: AskedEvaluation, systems: Mapping[str, Predictions], order: Sequence[str]
) -> dict[str, Score]:
    """Score systems, and write them beside those that were scored before.

    Args:
        run: The run.
        asked: The evaluation.
        systems: What each system said of all rows.
        order: Names of all systems that the evaluation has; others are left out of what is written.

    Returns:
        All scores that still stand, in that order.
    """
    chosen = asked.evaluation.metric
    metric, _ = open_metric(chosen.name, asked.evaluation.normaliser, chosen.config)
    before = scored_before(asked)
    systems = {**_still_there(asked, before), **systems}
    found = {name: asked.score([one.texts[key] for key in asked.keys]) for name, one in systems.items()}
    found = {name: found[name] for name in order if name in found}
    written: dict[str, ScoredSystem] = {
        name: {
            "predictions": systems[name].identity,
            "score": {
                **one.to_json(),
                "seconds": round(systems[name].seconds, 3),
                **_compared(asked, metric, name, found),
                **_parts(asked, metric, one),
            },
        }
        for name, one in found.items()
    }
    written = before | written
    written = {system: written[system] for system in order if system in written}
    _tell_of_scores(asked.folder)
    keep_scoring(asked.folder, asked.evaluation, asked.corpus.shards.digest, written)
    values = {system: one["score"] for system, one in written.items()}
    run.write_json(f"evaluations/{asked.name}/scores.json", values)
    return {system: found.get(system) or Score.from_json(of) for system, of in values.items()}


def _still_there(asked: AskedEvaluation, before: Mapping[str, ScoredSystem]) -> dict[str, Predictions]:
    """Return what systems said that were scored before, where it still lies there: they are compared, too."""
    found = {}
    for system, one in before.items():
        if one["predictions"]:
            predictions = asked.predictions(system, one["predictions"], begin=False)
            if not asked.missing(predictions):
                found[system] = predictions
    return found


def _compared(
    asked: AskedEvaluation, metric: Metric, name: str, found: Mapping[str, Score]
) -> dict[str, dict[str, Any]]:
    """Return how a system differs from those that stand after it."""
    names = list(found)
    against = {}
    for other in names[names.index(name) + 1 :]:
        comparison = compare(metric, found[name].utterances, found[other].utterances, asked.drawn)
        if comparison is not None:
            against[other] = comparison.to_json()
    return {"against": against} if against else {}


def _parts(asked: AskedEvaluation, metric: Metric, score: Score) -> dict[str, dict[str, Any]]:
    utterances: Sequence[Details | None] = score.utterances
    parts = {
        name: break_down(metric, utterances, groups, asked.drawn) for name, groups in asked.groups.items()
    }
    shown = {name: groups for name, groups in parts.items() if len(groups) > 1}
    return {"by": shown} if shown else {}


def _tell_of_scores(folder: Path) -> None:
    """Say what is wrong with scores that are about to be written again from their record."""
    path = folder / "scores.json"
    try:
        held, record = read_scores(path), read_scorings(folder)
    except DamagedError as error:
        say(f"{error}, now", error=True)
        return
    if held and record and held not in [values_of(scoring) for scoring in record]:
        say(f"{path} is not what {RECORD} says: it is written again", error=True)


def scored_before(asked: AskedEvaluation) -> dict[str, ScoredSystem]:
    """Return what the same settings gave before, also in a version that kept no record.

    Raises:
        DamagedError: What is there is damaged.
    """
    record = read_scorings(asked.folder)
    scoring = find_scoring(record, asked.evaluation, asked.corpus.shards.digest)
    if scoring is not None:
        return scoring["systems"]
    scores = {} if record else read_scores(asked.folder / "scores.json")
    wanted = (asked.evaluation.metric.name, asked.evaluation.normaliser)
    return {
        system: {"predictions": "", "score": values}
        for system, values in scores.items()
        if (values["metric"], values["normaliser"]) == wanted
    }


def own_comparisons(
    run: RunFolder, scores: Mapping[str, Mapping[str, Score]]
) -> dict[str, dict[str, dict[tuple[str, str], Comparison]]]:
    """Return how a run differs from other systems, as ``scores.json`` has it.

    Args:
        run: The run.
        scores: What was scored, by evaluation and system.

    Returns:
        The run's value less another system's: by unit, evaluation, and the names of both.
    """
    found: dict[str, dict[str, dict[tuple[str, str], Comparison]]] = {}
    for name, systems in scores.items():
        own = run.recipe.name
        held = read_scores(run.evaluation(name) / "scores.json")
        pairs = {}
        for system in systems:
            if (pair := comparison_in(held, own, system)) is not None:
                pairs[own, system] = pair
        if pairs:
            found.setdefault(systems[own].unit, {})[name] = pairs
    return found


def comparison_in(held: Mapping[str, Mapping[str, Any]], one: str, other: str) -> Comparison | None:
    """Return how a system differs from another, from ``scores.json``; None where it does not say."""
    if (found := comparisons_of(held.get(one, {})).get(other)) is not None:
        return found
    found = comparisons_of(held.get(other, {})).get(one)
    return None if found is None else found.reversed()
