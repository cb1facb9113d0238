"""Scores of what a stage leaves, and the gate that they open or shut."""

import gc
import time

import torch

from kikimimi.console.terminal import say
from kikimimi.errors import GateError, RunError
from kikimimi.evaluation.evaluate import evaluate_stage
from kikimimi.inference.ranks import Ranks, is_spread
from kikimimi.recipe import Stage
from kikimimi.run.folder import RunFolder
from kikimimi.run.loggers import log_scores
from kikimimi.run.metrics import read_metrics
from kikimimi.run.rank import global_rank

_PAUSE = 2.0  # s between two looks at what the first rank has done


def score_stage(run: RunFolder, name: str) -> None:
    """Score a finished stage on the evaluations that it names; what was scored before is not scored again.

    The first rank does it; the others wait, in no collective operation, which would time out. Where each
    holds a piece of the model (strategy fsdp), they compute along.

    Raises:
        GateError: A score is not what the stage's gate asks for.
        RunError: This rank waits, and the first rank has ended without a score.
    """
    stage = run.recipe.stages[name]
    if not stage.scored:
        return
    if is_spread(run.recipe.trainer):
        if not _values(run, name, stage):
            _score_together(run, name, stage)
    elif global_rank() == 0:
        _score(run, name, stage)
    else:
        while not _values(run, name, stage):
            if not run.is_locked():
                raise RunError(f"stage {name}: the first rank ended before the stage was scored")
            time.sleep(_PAUSE)
    values = _values(run, name, stage)
    for evaluation, gate in stage.gate.items():
        metric, found = run.recipe.evaluate[evaluation].metric, values[evaluation]
        bound, least = ("max", gate.max) if gate.max is not None else ("min", gate.min)
        assert least is not None
        if not (found <= least if bound == "max" else found >= least):  # no number opens no gate
            unit = f" {metric.component.unit}".rstrip()
            later = [other for other in run.recipe.stages if not run.finished(other)]
            on = f"kikimimi train {run.path} --stage {later[0]}" if later else ""
            raise GateError(
                f"stage {name}: {evaluation} has a {metric.name.upper()} of {found:.2f}{unit}, "
                f"{'above' if bound == 'max' else 'below'} stages.{name}.gate.{evaluation}.{bound} of "
                f"{least:g}{unit}"
                + (f": no later stage begins. To go on all the same: {on}" if later else "")
            )


def _score_together(run: RunFolder, name: str, stage: Stage) -> None:
    """Score with a model that no rank holds whole."""
    gc.collect()  # the model that was trained, and its optimiser
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    ranks = Ranks(run)
    if not ranks.leads:
        ranks.follow()
        return
    ranks.join()
    try:
        _score(run, name, stage, ranks)
    finally:
        ranks.end()


def _score(run: RunFolder, name: str, stage: Stage, ranks: Ranks | None = None) -> None:
    if _values(run, name, stage):
        return
    say(f"stage {name}: scoring what it leaves on {', '.join(stage.scored)}", error=True)
    scores = evaluate_stage(run, name, stage.scored, ranks)
    steps = [line["step"] for line in read_metrics(run.metrics) if line["stage"] == name]
    values = {_key(run, evaluation): scores[evaluation].value for evaluation in stage.scored}
    log_scores(run, name, max(steps, default=0), values)
    for evaluation in stage.scored:
        score = scores[evaluation]
        say(f"stage {name}: {evaluation} {score} ({score.count} clips)", error=True)


def _values(run: RunFolder, name: str, stage: Stage) -> dict[str, float]:
    """Return the stage's scores as the metrics file has them of its last step; empty where one is missing."""
    found: dict[str, float] = {}
    lines = [line for line in read_metrics(run.metrics) if line["stage"] == name]
    last = max((line["step"] for line in lines), default=0)
    for line in lines:
        if line["step"] == last:
            found |= {e: line[_key(run, e)] for e in stage.scored if _key(run, e) in line}
    return found if len(found) == len(stage.scored) else {}


def _key(run: RunFolder, evaluation: str) -> str:
    return f"{run.recipe.evaluate[evaluation].metric.name}/{evaluation}"
