"""Scores of what a stage leaves, and the gate that they open or shut."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from kikimimi.errors import GateError, RunError
from kikimimi.evaluation.evaluate import evaluate_stage
from kikimimi.run.folder import RunFolder
from kikimimi.run.loggers import log_scores
from kikimimi.run.metrics import read_metrics
from kikimimi.run.rank import global_rank

if TYPE_CHECKING:
    from kikimimi.recipe import Stage

_PAUSE = 2.0  # s between two looks at what the first rank has done


def score_stage(run: RunFolder, name: str) -> None:
    """Score a finished stage on the evaluations that it names; what was scored before is not scored again.

    The first rank does it; the others wait, in no collective operation, which would time out.

    Args:
        run: The run.
        name: Of the stage.

    Raises:
        GateError: An error rate is above what the stage's gate lets through.
        RunError: This rank waits, and the first rank has ended without a score.
    """
    stage = run.recipe.stages[name]
    if not stage.scored:
        return
    if global_rank() == 0:
        _score(run, name, stage)
    else:
        while not _rates(run, name, stage):
            if not run.is_locked():
                raise RunError(f"stage {name}: the first rank ended before the stage was scored")
            time.sleep(_PAUSE)
    rates = _rates(run, name, stage)
    for evaluation, gate in stage.gate.items():
        if rates[evaluation] > gate.max:
            metric = run.recipe.evaluate[evaluation].metric.upper()
            later = [other for other in run.recipe.stages if not run.finished(other)]
            on = f"kikimimi train {run.path} --stage {later[0]}" if later else ""
            raise GateError(
                f"stage {name}: {evaluation} has a {metric} of {rates[evaluation]:.2f} %, above "
                f"stages.{name}.gate.{evaluation}.max of {gate.max:g} %"
                + (f": no later stage begins. To go on all the same: {on}" if later else "")
            )


def _score(run: RunFolder, name: str, stage: Stage) -> None:
    if _rates(run, name, stage):
        return
    print(f"stage {name}: scoring what it leaves on {', '.join(stage.scored)}", file=sys.stderr)
    scores = evaluate_stage(run, name, stage.scored)
    steps = [line["step"] for line in read_metrics(run.metrics) if line["stage"] == name]
    values = {_key(run, evaluation): scores[evaluation].value for evaluation in stage.scored}
    log_scores(run, name, max(steps, default=0), values)
    for evaluation in stage.scored:
        score = scores[evaluation]
        print(
            f"stage {name}: {evaluation} {score.metric.upper()} {score.value:.2f} % ({score.count} clips)",
            file=sys.stderr,
        )


def _rates(run: RunFolder, name: str, stage: Stage) -> dict[str, float]:
    """Return the stage's error rates as the metrics have them [%]; empty where one is missing."""
    found: dict[str, float] = {}
    for line in read_metrics(run.metrics):
        if line["stage"] == name:
            found |= {e: line[_key(run, e)] for e in stage.scored if _key(run, e) in line}
    return found if len(found) == len(stage.scored) else {}


def _key(run: RunFolder, evaluation: str) -> str:
    return f"{run.recipe.evaluate[evaluation].metric}/{evaluation}"
