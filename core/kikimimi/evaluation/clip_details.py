"""What a run's score on an evaluation is computed from, clip by clip: from the predictions that it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kikimimi.contracts.metric import Details, Metric, Score, open_metric
from kikimimi.data.corpus import Corpus
from kikimimi.errors import PluginError, RequestError
from kikimimi.evaluation.asked import item_of
from kikimimi.evaluation.breakdown import groups_of
from kikimimi.evaluation.predictions import Identity, held_identity, read_predictions, row_keys
from kikimimi.evaluation.score import score
from kikimimi.recipe import Chosen
from kikimimi.run.folder import RunFolder


@dataclass(frozen=True)
class ClipDetails:
    """Details of each clip.

    Attributes:
        metric: The metric whose they are.
        score: The score of all clips.
        details: Details by the clip's key; None of one that is not scored.
    """

    metric: Metric
    score: Score
    details: Mapping[str, Details | None]


def clip_details(run: RunFolder, name: str, identity: Identity | None = None) -> ClipDetails | None:
    """Score the predictions that a run keeps of an evaluation once more.

    Args:
        run: The run.
        name: Name of the evaluation.
        identity: What the predictions have to depend on; None takes those that are there.

    Returns:
        The details; None where predictions are gone or others, or the metric goes by more than two texts.

    Raises:
        DamagedError: The predictions are damaged.
    """
    evaluation = run.recipe.evaluate[name]
    chosen: Chosen = evaluation.metric
    path = run.evaluation(name) / f"{run.recipe.name}.jsonl"
    if not path.is_file() or (identity is not None and held_identity(path) != identity):
        return None
    lines = read_predictions(path)
    try:
        metric, _ = open_metric(chosen.name, evaluation.normaliser, chosen.config)
        if type(metric).measure_items is not Metric.measure_items:
            return None  # it goes by more than two texts
        scored = score(
            [line["reference"].strip() for line in lines.values()],
            [line["prediction"].strip() for line in lines.values()],
            metric=chosen.name,
            normaliser=evaluation.normaliser,
            config=chosen.config,
        )
    except (RequestError, PluginError):
        return None
    return ClipDetails(metric, scored, dict(zip(lines, scored.utterances, strict=True)))


def clip_groups(run: RunFolder, name: str, field: str) -> tuple[str, dict[str, str]]:
    """Read what each clip of an evaluation belongs to, from its data.

    Args:
        run: The run.
        name: Name of the evaluation.
        field: Field of the records, such as speaker.

    Returns:
        Digest of the clips, and the group of each by its key.

    Raises:
        KikimimiError: The data is not there, or cannot be read.
    """
    evaluation = run.recipe.evaluate[name]
    corpus = Corpus.open(name, evaluation)
    metas = [item_of(corpus, row).meta for row in range(len(corpus.shards))]
    groups = groups_of(corpus, metas, field) or []
    return corpus.shards.digest, dict(zip(row_keys(corpus), groups, strict=True))
