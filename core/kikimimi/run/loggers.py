"""Loggers beside ``metrics.jsonl``: what a recipe's `trainer.loggers` names."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kikimimi.errors import MissingExtraError
from kikimimi.run.metrics import MetricsFile, read_metrics
from kikimimi.run.wandb_logger import WandbFile, import_wandb

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from kikimimi.recipe import Recipe
    from kikimimi.run.folder import RunFolder


def check_loggers(recipe: Recipe) -> None:
    """Check that the packages of a recipe's loggers are there.

    Raises:
        MissingExtraError: One is not.
    """
    if "tensorboard" in recipe.trainer.loggers:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: F401
        except ImportError:
            raise MissingExtraError("trainer.loggers: tensorboard", "tensorboard", "tensorboard") from None
    if "wandb" in recipe.trainer.loggers:
        import_wandb()


def open_loggers(run: RunFolder, stage: str, step: int | None) -> list[Logger]:
    """Open the loggers of a stage that a recipe names.

    Args:
        run: Whose folder they write to.
        stage: Name of the stage.
        step: What it goes on after; None where it begins.

    Raises:
        MissingExtraError: A package is missing.
    """
    check_loggers(run.recipe)
    loggers: list[Logger] = []
    if "tensorboard" in run.recipe.trainer.loggers:
        from pytorch_lightning.loggers import TensorBoardLogger

        # What a killed session wrote past the step that this one goes on from is hidden: it comes again.
        purge = None if step is None else step + 1
        folder = run.path / "tensorboard"
        loggers.append(TensorBoardLogger(folder, name=stage, version="", purge_step=purge))
    if "wandb" in run.recipe.trainer.loggers:
        loggers.append(WandbFile(run, stage))
    return loggers


def log_evaluation(run: RunFolder, scores: dict[str, float]) -> None:
    """Write the scores of a run to its loggers, where they are those of a finished stage.

    A machine that evaluates may lack a logger's package: that is told, and the metrics file has the scores.

    Args:
        run: The run.
        scores: Values by name, such as ``cer/cv8``.
    """
    stage, _ = run.newest_weights()
    steps = [line["step"] for line in read_metrics(run.metrics) if line["stage"] == stage]
    if not (run.finished(stage) and steps):
        return
    try:
        log_scores(run, stage, max(steps), scores)
    except MissingExtraError as error:
        print(f"the scores stand in {run.metrics} alone: {error}", file=sys.stderr)


def log_scores(run: RunFolder, stage: str, step: int, scores: dict[str, float]) -> None:
    """Write values that are measured outside of the steps (evaluations) to every logger of a run.

    Args:
        run: The run.
        stage: After which they were measured.
        step: The stage's step.
        scores: By name, such as ``cer/cv8``; what stands there for the step already is left.
    """
    metrics = MetricsFile(run.path, stage)
    new = {name: value for name, value in scores.items() if not metrics.has(step, name)}
    if not new:
        return
    metrics.log_metrics(new, step=step)
    metrics.write_csv()
    for logger in open_loggers(run, stage, step):
        logger.log_metrics(new, step=step)
        logger.finalize("success")
