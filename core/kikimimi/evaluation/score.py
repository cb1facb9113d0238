"""Scoring, and scores as a table. Imports no torch, so that ``kikimimi score`` answers at once."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kikimimi.contracts.answer import Answer, without_thoughts
from kikimimi.contracts.metric import MetricConfig, MetricItem, Score, open_metric
from kikimimi.contracts.normaliser import Normaliser, normaliser_hash
from kikimimi.errors import RequestError
from kikimimi.evaluation.bootstrap import Comparison, add_up, interval
from kikimimi.evaluation.loops import has_loop
from kikimimi.files.reading import damaged, file_there, read_json

ScoreValue = int | float | str | dict[str, Any]
"""What JSON holds of a score: texts, numbers, and in ``against`` and ``by`` comparisons and parts by name."""
EDITS = ("substitutions", "deletions", "insertions")
"""Details of error rates that tables show."""
_COMPARED = ("difference", "low", "high", "differ", "count")
TABLED = ("truncated", "looped")
"""Counts of answers that tables show."""
SCORES_REMEDY = "Delete it: 'kikimimi evaluate' makes it again"
"""What people can do where ``scores.json`` of an evaluation is damaged."""


def score(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    metric: str,
    normaliser: str,
    config: MetricConfig | None = None,
    groups: Sequence[Hashable] | None = None,
) -> Score:
    """Score predictions against references.

    Args:
        references: What was said.
        predictions: What a system wrote, in the same order. Thoughts are not scored. Where all of them are an
            `Answer`, those that were cut or loop are counted.
        metric: Registered name of the metric.
        normaliser: Registered name of the normaliser that both sides go through first.
        config: The metric's options; None for its defaults.
        groups: What each utterance belongs to where the interval draws groups whole, such as its speaker.

    Returns:
        The score; utterances whose reference has nothing to compare with are in `skipped` only.

    Raises:
        RequestError: The numbers of references and predictions differ, no reference is left to score, or the
            metric does not take them or the normaliser.
        PluginError: No such metric or normaliser.
    """
    if len(references) != len(predictions):
        raise RequestError(
            f"{len(references)} references but {len(predictions)} predictions: "
            "each prediction needs its reference"
        )
    pairs = zip(references, predictions, strict=True)
    items = [MetricItem(reference=reference, prediction=prediction) for reference, prediction in pairs]
    return score_items(items, metric=metric, normaliser=normaliser, config=config, groups=groups)


def score_items(
    items: Sequence[MetricItem],
    *,
    metric: str,
    normaliser: str,
    config: MetricConfig | None = None,
    groups: Sequence[Hashable] | None = None,
    interval_by: str | None = None,
) -> Score:
    """Score answers, of which more may be known than two texts.

    Args:
        items: The answers, not yet normalised.
        metric: Registered name, as for `score`; so are the others.
        normaliser: See there.
        config: See there.
        groups: See there.
        interval_by: What these groups are called, which the score says.

    Returns:
        The score, as of `score`.

    Raises:
        RequestError: No reference is left to score, or the metric does not take them or the normaliser.
        PluginError: No such metric or normaliser.
    """
    built, normalise = open_metric(metric, normaliser, config)
    try:
        found = built.measure_items(normalised(items, normalise))
    except ValueError as error:
        raise RequestError(f"metric '{metric}': {error}") from error
    kept = [details for details in found if details is not None]
    if not kept:
        raise RequestError(
            f"nothing to score: all {len(items)} references are empty after normaliser '{normaliser}'"
        )
    totals = add_up(kept)
    return Score(
        metric=metric,
        value=built.value(totals),
        unit=built.unit,
        better=built.better,
        normaliser=normaliser,
        normaliser_hash=normaliser_hash(normaliser),
        count=len(kept),
        skipped=len(found) - len(kept),
        interval=interval(built, found, groups),
        interval_by=interval_by,
        invalid=built.invalid(totals),
        details=totals,
        **_counts([item.reference for item in items], [item.prediction for item in items]),
        utterances=found,
    )


def normalised(items: Sequence[MetricItem], normalise: Normaliser) -> list[MetricItem]:
    """Return items as a metric sees them: without thoughts, and normalised."""
    return [
        replace(
            item,
            reference=normalise(without_thoughts(item.reference)),
            prediction=normalise(without_thoughts(item.prediction)),
        )
        for item in items
    ]


def _counts(references: Sequence[str], predictions: Sequence[str]) -> dict[str, int | None]:
    """Return what is counted of answers. Of texts from elsewhere it is not known how they came about."""
    counts: dict[str, int | None] = {"thoughts": sum(without_thoughts(text) != text for text in predictions)}
    answers = [text for text in predictions if isinstance(text, Answer)]
    if len(answers) == len(predictions):
        cut = [answer.cut for answer in answers]
        pairs = zip(references, predictions, strict=True)
        counts["truncated"] = None if None in cut else cut.count(True)
        counts["looped"] = sum(has_loop(answer) and not has_loop(reference) for reference, answer in pairs)
    return counts


def read_scores(path: Path) -> dict[str, dict[str, Any]]:
    """Return what ``scores.json`` of an evaluation holds of each system; empty where there is none.

    Raises:
        DamagedError: It is damaged.
    """
    remedy = SCORES_REMEDY
    if not file_there(path, remedy):
        return {}
    held: dict[str, dict[str, Any]] = read_json(path, dict[str, dict[str, ScoreValue]], remedy=remedy)
    for system, values in held.items():
        try:
            check_score(values)
        except ValueError as error:
            raise damaged(path, f"{system!r} is no score: {error}", remedy) from error
    return held


def check_score(values: Mapping[str, Any]) -> None:
    """Check what a file holds of a system: its score, and for how long it computed [s].

    Raises:
        ValueError: It is none.
    """
    Score.from_json(values)
    seconds: Any = values.get("seconds")
    if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        raise ValueError(f"seconds: {seconds!r} is no time")
    comparisons_of(values)
    parts_of(values)


def comparisons_of(values: Mapping[str, Any]) -> dict[str, Comparison]:
    """Return how a system differs from others, by their names, from what ``scores.json`` holds of it.

    Raises:
        ValueError: It holds something else.
    """
    return {
        name: Comparison(**{key: _number(f"against.{name}.{key}", one, key) for key in _COMPARED})
        for name, one in _named(values, "against").items()
    }


def parts_of(values: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the values of parts, by field and by group, from what ``scores.json`` holds of a system.

    Raises:
        ValueError: It holds something else.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for field, groups in _named(values, "by").items():
        where = f"by.{field}"
        found[field] = {}
        for group, one in _named({where: groups}, where).items():
            wanted = [key for key in ("low", "high") if isinstance(one, dict) and key in one]
            at = f"{where}.{group}"
            found[field][group] = {key: _number(at, one, key) for key in ("value", "count", *wanted)}
    return found


def _named(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    held = values.get(name, {})
    if not isinstance(held, dict):
        raise ValueError(f"{name}: {held!r} is no mapping")
    return held


def _number(where: str, values: Any, key: str) -> Any:
    value: Any = values.get(key) if isinstance(values, dict) else None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{where}: {value!r} is no finite number")
    return value
