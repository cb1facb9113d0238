"""A progress bar over a stage."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from kikimimi.console.progress import Progress
from kikimimi.training.module import StageModule


class StageProgress(Callback):
    """A progress bar over the optimiser steps, with the loss."""

    def __init__(self, title: str, steps: int) -> None:
        self.title, self.steps = title, steps
        self._bar: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where the stage starts or goes on."""
        if trainer.is_global_zero:
            self._bar = Progress(self.title, self.steps, "steps", done=trainer.global_step)
            self._bar.__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self._bar is not None and trainer.global_step > self._bar.done:
            assert isinstance(pl_module, StageModule)
            self._bar.advance(trainer.global_step - self._bar.done, f"loss {pl_module.latest_loss:.3f}")

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        self._close()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
