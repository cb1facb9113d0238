"""Validation: its loss, and what that decides: which weights are kept, and whether the stage goes on."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from kikimimi.data.order.loader import StageLoader
from kikimimi.model.trainable import set_modes
from kikimimi.recipe import Stage
from kikimimi.run.metrics import read_metrics
from kikimimi.training.callbacks.metering import log_values
from kikimimi.training.log_interval import WHOLE, Numbered
from kikimimi.training.module import StageModule
from kikimimi.training.state.checkpoint import write_weights
from kikimimi.training.step_mean import Values


class Best:
    """Keeps the weights of the lowest validation losses, and says when a stage no longer gets better.

    Its memory is the metrics file, which a run that goes on cuts back to its checkpoint: no state of its own
    can contradict it.
    """

    def __init__(self, folder: Path, stage: Stage) -> None:
        self.folder, self.stage = folder, stage
        self._losses: list[tuple[float, int]] = []

    def remember(self, metrics: Path, stage: str) -> None:
        """Take up the validation losses that stand in the metrics file for this stage."""
        self._losses = [
            (line["validation_loss"], line["step"])
            for line in read_metrics(metrics)
            if line["stage"] == stage and "validation_loss" in line
        ]

    def add(self, step: int, loss: float, save: Callable[[Path], None], *, delete: bool) -> None:
        """Note the loss of a validation, and keep the weights if it is among the lowest.

        Args:
            step: Where it was measured.
            loss: Mean over the held-out data; one that is not a number is never among the lowest.
            save: Writes the weights as they are now to a path, whole or not at all; called by every rank.
            delete: Whether this process deletes what is no longer among the lowest.
        """
        self._losses = [entry for entry in self._losses if entry[1] != step]
        if not math.isnan(loss):
            self._losses.append((loss, step))
        if step in self.steps():
            save(self._path(step))
        if delete and self.folder.is_dir():
            kept = {self._path(number) for number in self.steps()}
            for path in self.folder.glob("step-*.safetensors"):
                if path not in kept:
                    path.unlink()

    def steps(self) -> list[int]:
        """Return the steps of the lowest losses, as many as are kept, lowest first; earlier before later."""
        return [step for _, step in sorted(self._losses)[: self.stage.checkpoint.keep_best]]

    def path(self) -> Path | None:
        """Return the weights of the lowest loss, or None where no validation had a loss."""
        steps = self.steps()
        return self._path(steps[0]) if steps else None

    def stalled(self) -> bool:
        """Whether the last `early_stop.patience` validations brought no loss lower by `min_delta`."""
        early = self.stage.early_stop
        if early is None:
            return False
        lowest, waited = math.inf, 0
        for loss, _ in sorted(self._losses, key=lambda entry: entry[1]):
            if loss < lowest - early.min_delta:
                lowest, waited = loss, 0
            else:
                waited += 1
        return waited >= early.patience

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"


class Validation(Callback):
    """Logs the loss of each validation, keeps the best weights, and ends a stage that gets no better.

    Args:
        best: What it decides by.
        missed: What is validated before the first step, where a kill came between a checkpoint and its
            validation; else None.
        metadata: Provenance, for the header of the weights.
    """

    def __init__(self, best: Best, missed: StageLoader | None, metadata: Mapping[str, Any]) -> None:
        self.best, self.missed, self.metadata = best, missed, metadata
        self._terms: dict[str, Values] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make up for a missed validation; what it draws at random is put back before the first step."""
        if self.missed is None:
            return
        assert isinstance(pl_module, StageModule)
        pl_module.model.eval()
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            for number, batch in enumerate(self.missed):
                self._add(pl_module.validation_step(batch.to(pl_module.device), number))
        pl_module.model.train()
        set_modes(pl_module.model)
        self.on_validation_end(trainer, pl_module)
        if trainer.global_step >= pl_module.stage.num_steps:
            trainer.should_stop = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new mean."""
        self._terms = {}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take up the losses of a micro-batch."""
        self._add(outputs)

    def _add(self, terms: Numbered) -> None:
        for name, term in terms.items():
            self._terms.setdefault(name, []).append(term)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the mean of the validation losses, and act on it."""
        if not self._terms:
            return

        def save(path: Path) -> None:
            assert isinstance(pl_module, StageModule)
            write_weights(trainer, path, pl_module.left_weights(), self.metadata)

        mine = torch.stack([_mean(name, values) for name, values in self._terms.items()]).sum()
        loss = float(trainer.strategy.reduce(mine, reduce_op="mean"))
        # Before the metrics: where they have a loss, its weights are there.
        self.best.add(trainer.global_step, loss, save, delete=trainer.is_global_zero)
        log_values(trainer, {"validation_loss": loss})
        if self.best.stalled():
            trainer.should_stop = True


def _mean(name: str, values: Values) -> torch.Tensor:
    losses = torch.stack([value for value, _ in values])
    if name == WHOLE and all(number == 1 for _, number in values):
        return losses.mean()
    numbers = torch.tensor([float(number) for _, number in values]).to(losses)
    return (losses * numbers).sum() / numbers.sum().clamp(min=1)
