"""Scores of what a stage leaves, and the gate that they open or shut."""

import gc
from collections.abc import Callable
from math import isnan, nan

import torch

from kikimimi.console.terminal import say
from kikimimi.errors import GateError
from kikimimi.evaluation.evaluate import evaluate_stage
from kikimimi.inference.ranks import Ranks, are_several
from kikimimi.recipe import Stage
from kikimimi.run.folder import RunFolder
from kikimimi.run.loggers import log_scores
from kikimimi.run.metrics import read_metrics


def score_stage(run: RunFolder, name: str) -> None:
    """Score a finished stage on the evaluations that it names; what was scored before is not scored again.

    The first rank does it; the others compute along, and share the work where each holds the whole model.

    Raises:
        GateError: A score is not what the stage's gate asks for.
    """
    stage = run.recipe.stages[name]
    if not stage.scored:
        return
    if not are_several(run.recipe.trainer):
        _score(run, name, stage)
    elif not _values(run, name, stage):
        compute_together(run, lambda ranks: _score(run, name, stage, ranks))
    values = _values(run, name, stage)
    for evaluation in stage.gate:
        _pass(run, name, evaluation, values)


def _pass(run: RunFolder, stage: str, evaluation: str, values: dict[str, float]) -> None:
    gate, metric = run.recipe.stages[stage].gate[evaluation], run.recipe.evaluate[evaluation].metric
    found, unit = values[_key(run, evaluation)], f" {metric.component.unit}".rstrip()
    bounds = [("max", gate.max), ("min", gate.min)]
    tried = [
        (f"a {metric.name.upper()} of {found:.2f}{unit}", found, bound, least, f"{least:g}{unit}")
        for bound, least in bounds
        if least is not None
    ]
    for count, most in gate.shares.items():
        share = values[f"{count}/{evaluation}"]
        said = "not known" if isnan(share) else f"{share:.4f}"
        tried.append((f"a share of {count} answers of {said}", share, f"{count}.max", most, f"{most:g}"))
    for what, value, bound, wanted, written in tried:
        if not (value >= wanted if bound == "min" else value <= wanted):  # no number opens no gate
            raise GateError(
                f"stage {stage}: {evaluation} has {what}, {'below' if bound == 'min' else 'above'} "
                f"stages.{stage}.gate.{evaluation}.{bound} of {written}{way_on(run)}"
            )


def way_on(run: RunFolder) -> str:
    """Return in words what a shut gate keeps from beginning, and how to go on; empty where nothing is."""
    later = [other for other in run.recipe.stages if not run.finished(other)]
    on = f"kikimimi train {run.path} --stage {later[0]}" if later else ""
    return f": no later stage begins. To go on all the same: {on}" if later else ""


def compute_together(run: RunFolder, work: Callable[[Ranks], object]) -> None:
    """Let the first rank do some work and the others compute along."""
    gc.collect()  # the model that was trained, and its optimiser
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    ranks = Ranks(run)
    if not ranks.leads:
        ranks.follow()
        return
    ranks.join()
    try:
        work(ranks)
    finally:
        ranks.end()


def _score(run: RunFolder, name: str, stage: Stage, ranks: Ranks | None = None) -> None:
    if _values(run, name, stage):
        return
    say(f"stage {name}: scoring what it leaves on {', '.join(stage.scored)}", error=True)
    scores = evaluate_stage(run, name, stage.scored, ranks)
    steps = [line["step"] for line in read_metrics(run.metrics) if line["stage"] == name]
    values = {_key(run, evaluation): scores[evaluation].value for evaluation in stage.scored}
    for key, evaluation, count in _shares(stage):
        share = scores[evaluation].share(count)
        values[key] = nan if share is None else share
    log_scores(run, name, max(steps, default=0), values)
    for evaluation in stage.scored:
        score = scores[evaluation]
        beside = "".join(f", {number} {what}" for what, number in score.counts.items() if number)
        say(f"stage {name}: {evaluation} {score} ({score.count} clips{beside})", error=True)


def _values(run: RunFolder, name: str, stage: Stage) -> dict[str, float]:
    """Return the stage's scores, and shares that are bounded, as the metrics file has them of its last step.

    It is empty where one is missing.
    """
    lines = [line for line in read_metrics(run.metrics) if line["stage"] == name]
    last = max((line["step"] for line in lines), default=0)
    wanted = [_key(run, evaluation) for evaluation in stage.scored] + [key for key, _, _ in _shares(stage)]
    found = {key: line[key] for line in lines if line["step"] == last for key in wanted if key in line}
    return found if len(found) == len(set(wanted)) else {}


def _shares(stage: Stage) -> list[tuple[str, str, str]]:
    """Return of each bounded share the key in the metrics, the evaluation, and what is counted."""
    return [(f"{c}/{evaluation}", evaluation, c) for evaluation, g in stage.gate.items() for c in g.shares]


def _key(run: RunFolder, evaluation: str) -> str:
    return f"{run.recipe.evaluate[evaluation].metric.name}/{evaluation}"
