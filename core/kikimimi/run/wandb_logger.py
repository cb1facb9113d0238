"""Metrics for Weights & Biases, kept in the run folder: nothing is sent unless the user asks for it."""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from kikimimi.errors import MissingExtraError
from kikimimi.recipe.show import to_yaml

if TYPE_CHECKING:
    from kikimimi.run.folder import RunFolder

OFFLINE = "offline"
FOLDER = "wandb"


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


class WandbFile(Logger):
    """One run of W&B per stage, below ``wandb/`` of the run folder; `wandb sync` sends it later.

    Offline, unless the environment says ``WANDB_MODE=online``. A stage that goes on adds to the run that it
    began, from the first step on that was not logged yet: W&B takes no step twice, and what comes again
    is the same.

    Args:
        run: The run.
        stage: Name of the stage.
    """

    def __init__(self, run: RunFolder, stage: str) -> None:
        super().__init__()
        self.run, self.stage = run, stage
        self._state_file = f"{FOLDER}/{stage}.json"
        self._run: Any = None

    @property
    def name(self) -> str:
        """Name for Lightning."""
        return "wandb"

    @property
    def version(self) -> str:
        """Version for Lightning."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved recipe is the run's configuration."""

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
        state = self.run.read_json(self._state_file)
        self._state = state or {"id": secrets.token_hex(4), "step": -1, "names": []}
        mode = os.environ.get("WANDB_MODE", OFFLINE)
        recipe = self.run.recipe
        (self.run.path / FOLDER).mkdir(exist_ok=True)
        self._run = import_wandb().init(
            project=os.environ.get("WANDB_PROJECT", "kikimimi"),
            name=f"{self.run.path.name}/{self.stage}",
            group=self.run.path.name,
            id=self._state["id"],
            dir=str(self.run.path),
            mode=mode,
            resume="allow" if state and mode != OFFLINE else None,
            config=yaml.safe_load(to_yaml(recipe)),
        )
