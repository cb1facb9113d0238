"""Validation: its loss, and what that decides: which weights are kept, and whether the stage goes on."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from kikimimi.data.order.loader import StageLoader
from kikimimi.files.reading import damaged, paths_in
from kikimimi.model.stand_in import evaluating
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

    def remember(self, metrics: Path, stage: str, step: int | None = None) -> None:
        """Take up the validation losses that stand in the metrics file for this stage.

        Args:
            metrics: The metrics file.
            stage: Name of the stage.
            step: Step that the stage goes on from; None where it begins, or is not to go on.

        Raises:
            DamagedError: Weights are kept of an earlier step, and the file lacks the loss they are kept for.
        """
        self._losses = [
            (line["validation_loss"], line["step"])
            for line in read_metrics(metrics)
            if line["stage"] == stage and "validation_loss" in line
        ]
        if step is None:
            return
        known = {self._path(measured) for _, measured in self._losses}
        for path in paths_in(self.folder, "step-*.safetensors"):
            # Those of the step itself may have been written without their loss, by a kill.
            if path not in known and path < self._path(step):
                raise damaged(
                    metrics,
                    f"lacks the validation loss for which {path} is kept",
                    f"Restore the file from a copy, or delete {path}: weights of later steps alone are "
                    "compared then",
                )

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
        kept = max(self.stage.checkpoint.keep_best, self.stage.leaves_best)
        return [step for _, step in sorted(self._losses)[:kept]]

    def path(self) -> Path | None:
        """Return the weights of the lowest loss, or None where none are kept, or no validation had a loss."""
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

    The loss is the mean over all units of all held-out datasets together, as that of a training step is over
    those of the step; where there are several datasets, ``validation_loss/NAME`` is that of each.

    Args:
        best: What it decides by.
        loaders: Held-out micro-batches by dataset.
        missed: Whether to validate before the first step: a kill came between a checkpoint and its
            validation.
        metadata: Provenance, for the header of the weights.
    """

    def __init__(
        self, best: Best, loaders: Mapping[str, StageLoader], missed: bool, metadata: Mapping[str, Any]
    ) -> None:
        self.best, self.loaders, self.missed, self.metadata = best, loaders, missed, metadata
        self._terms: dict[str, dict[str, Values]] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make up for a missed validation; what it draws at random is put back before the first step."""
        if not self.missed:
            return
        assert isinstance(pl_module, StageModule)
        with evaluating(pl_module.model), torch.no_grad(), trainer.precision_plugin.val_step_context():
            for name, loader in self.loaders.items():
                for number, batch in enumerate(loader):
                    self._add(name, pl_module.validation_step(batch.to(pl_module.device), number))
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
        self._add([*self.loaders][dataloader_idx], outputs)

    def _add(self, dataset: str, terms: Numbered) -> None:
        for name, term in terms.items():
            self._terms.setdefault(dataset, {}).setdefault(name, []).append(term)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the means of the validation losses, and act on that over all datasets."""
        if not self._terms:
            return

        def save(path: Path) -> None:
            assert isinstance(pl_module, StageModule)
            write_weights(trainer, path, pl_module.left_weights(), self.metadata)

        losses = {"validation_loss": _loss([*self._terms.values()])}
        if len(self.loaders) > 1:
            losses |= {f"validation_loss/{name}": _loss([terms]) for name, terms in self._terms.items()}
        # All ranks have validated the same; they decide by one number, too.
        mine = torch.stack([*losses.values()]).float().to(trainer.strategy.root_device)
        agreed = trainer.strategy.reduce(mine, reduce_op="mean").tolist()
        found = dict(zip(losses, agreed, strict=True))
        loss = found["validation_loss"]
        # Before the metrics: where they have a loss, its weights are there.
        self.best.add(trainer.global_step, loss, save, delete=trainer.is_global_zero)
        log_values(trainer, found)
        if self.best.stalled():
            trainer.should_stop = True


def _loss(datasets: Sequence[Mapping[str, Values]]) -> torch.Tensor:
    """Return what the terms of some datasets add up to, each its mean over the units of all of them."""
    together: dict[str, Values] = {}
    for name, values in (item for terms in datasets for item in terms.items()):
        together.setdefault(name, []).extend(values)
    return torch.stack([_mean(name, values) for name, values in together.items()]).sum()


def _mean(name: str, values: Values) -> torch.Tensor:
    losses = torch.stack([value for value, _ in values]).cpu()
    if name == WHOLE and all(number == 1 for _, number in values):
        return losses.mean()
    numbers = torch.tensor([number for _, number in values], dtype=torch.float64)
    return (losses * numbers).sum() / numbers.sum().clamp(min=1)
