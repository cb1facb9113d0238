"""Loggers beside ``metrics.jsonl``: what a recipe's `trainer.loggers` names."""

from __future__ import annotations

import importlib
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.utilities import rank_zero_only
from typing_extensions import TypedDict

from kikimimi.console.terminal import say
from kikimimi.errors import MissingExtraError
from kikimimi.files.writing import writing
from kikimimi.recipe.show import plain
from kikimimi.run.metrics import MetricsFile, StageLogger, read_metrics

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from kikimimi.recipe import Recipe
    from kikimimi.run.folder import RunFolder

OFFLINE = "offline"
WANDB = "wandb"


_AGAIN = "Delete it: the stage begins a new run of W&B"


class _WandbState(TypedDict):
    id: str
    step: int
    names: list[str]


class WandbFile(StageLogger):
    """One run of W&B per stage, below ``wandb/`` of the run folder; `wandb sync` sends it later.

    Offline, unless the environment says ``WANDB_MODE=online``. A stage that goes on adds to the run that it
    began, from the first step on that was not logged yet: W&B takes no step twice, and what comes again
    is the same.
    """

    def __init__(self, run: RunFolder, stage: str) -> None:
        super().__init__("wandb", stage)
        self.run = run
        self._state_file = f"{WANDB}/{stage}.json"
        self._run: Any = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what was not logged before."""
        assert step is not None
        self._open()
        logged: dict[str, Any] = self._state
        if step < logged["step"]:
            return
        held = logged["names"] if step == logged["step"] else []
        new = {name: value for name, value in metrics.items() if name not in held}
        if not new:
            return
        self._run.log(new, step=step)
        logged.update(step=step, names=[*held, *new])
        self.run.write_json(self._state_file, logged)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the run's files."""
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "success" else 1)
            self._run = None

    def _open(self) -> None:
        if self._run is not None:
            return
        state = self.run.read_json(self._state_file, _WandbState, remedy=_AGAIN)
        self._state = state or {"id": secrets.token_hex(4), "step": -1, "names": []}
        mode = os.environ.get("WANDB_MODE", OFFLINE)
        recipe = self.run.recipe
        (self.run.path / WANDB).mkdir(exist_ok=True)
        self._run = import_wandb().init(
            project=os.environ.get("WANDB_PROJECT", "kikimimi"),
            name=f"{self.run.path.name}/{self.stage}",
            group=self.run.path.name,
            id=self._state["id"],
            dir=str(self.run.path),
            mode=mode,
            resume="allow" if state and mode != OFFLINE else None,
            config=plain(recipe),
        )


def import_wandb() -> Any:
    """Import the package, which sends reports of its own crashes unless it is told not to.

    Raises:
        MissingExtraError: It is not installed.
    """
    if os.environ.get("WANDB_MODE", OFFLINE) == OFFLINE:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise MissingExtraError("trainer.loggers: wandb", "wandb", "wandb") from None


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

    Raises:
        MissingExtraError: A package is missing.
    """
    check_loggers(run.recipe)
    loggers: list[Logger] = []
    if "tensorboard" in run.recipe.trainer.loggers:
        # What a killed session wrote past the step that this one goes on from is hidden: it comes again.
        purge = None if step is None else step + 1
        folder = run.path / "tensorboard"
        loggers.append(_tensorboard(folder, stage, purge))
    if "wandb" in run.recipe.trainer.loggers:
        loggers.append(WandbFile(run, stage))
    return loggers


def _tensorboard(folder: Path, stage: str, purge: int | None) -> Logger:
    from pytorch_lightning.loggers import TensorBoardLogger

    class Told(TensorBoardLogger):
        """TensorBoard's, whose refusals are told as all others."""

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            with writing(folder):
                try:
                    super().log_metrics(metrics, step)
                except ValueError as error:
                    raise error.__cause__ or error from None

        def save(self) -> None:
            with writing(folder):
                super().save()

    if threading.excepthook is not _leave_to_logger:
        _others.append(threading.excepthook)
        threading.excepthook = _leave_to_logger
    return Told(folder, name=stage, version="", purge_step=purge)


_others: list[Callable[[threading.ExceptHookArgs], Any]] = []


def _leave_to_logger(lost: threading.ExceptHookArgs) -> None:
    """Print no traceback of the thread that writes TensorBoard's events: its error is raised again."""
    if not (type(lost.thread).__name__ == "_AsyncWriterThread" and issubclass(lost.exc_type, OSError)):
        _others[-1](lost)


def log_evaluation(run: RunFolder, scores: dict[str, float]) -> None:
    """Write the scores of a run to its loggers, where they are those of a finished stage.

    A machine that evaluates may lack a logger's package: that is told, and the metrics file has the scores.
    """
    stage, _ = run.newest_weights()
    steps = [line["step"] for line in read_metrics(run.metrics) if line["stage"] == stage]
    if not (run.finished(stage) and steps):
        return
    try:
        log_scores(run, stage, max(steps), scores)
    except MissingExtraError as error:
        say(f"the scores stand in {run.metrics} alone: {error}", error=True)


def log_scores(run: RunFolder, stage: str, step: int, scores: dict[str, float]) -> None:
    """Write values that are measured outside of the steps (evaluations) to every logger of a run."""
    metrics = MetricsFile(run.path, stage)
    new = {name: value for name, value in scores.items() if not metrics.has(step, name)}
    if not new:
        return
    metrics.drop_torn_line()
    metrics.log_metrics(new, step=step)
    metrics.write_csv()
    for logger in open_loggers(run, stage, step):
        logger.log_metrics(new, step=step)
        logger.finalize("success")
