"""What happens around the steps of a stage: progress, checkpoints, and stopping without loss."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from kikimimi.model.batch import Batch
from kikimimi.progress import Progress
from kikimimi.run_folder import checkpoint_folders
from kikimimi.training.checkpoint import restore_random_state
from kikimimi.training.loader import STOP_SIGNALS, StageLoader
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
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
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


class KeepCheckpoints(Callback):
    """Saves every so many steps, at the end, and when asked to stop; keeps the newest few.

    The first Ctrl-C (or SIGTERM, as schedulers send it) lets the step finish, saves and stops on every rank;
    the second stops at once.

    Args:
        folder: Where checkpoints go.
        every: Distance [steps].
        keep: How many.
        loader: Whose position goes into the checkpoint.
        micro_batches: Per optimiser step, over all ranks.
    """

    def __init__(self, folder: Path, every: int, keep: int, loader: StageLoader, micro_batches: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.loader, self.micro_batches = loader, micro_batches
        self.interrupted = False
        self.signal: int | None = None
        self._random: list[dict[str, Any]] | None = None
        self._handlers: dict[int, Any] = {}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the random state until the first step: building loaders may draw numbers."""
        self._random = checkpoint["random"]
        saved = len(checkpoint["random"])
        if saved != trainer.world_size:
            # Lightning counts the micro-batches of one rank; of so many ranks each has had another number.
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):
                underway = counts["ready"] - counts["completed"]  # the one at whose end it was saved
                counts.update(dict.fromkeys(counts, counts["ready"] * saved // trainer.world_size))
                counts["completed"] -= underway

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over Ctrl-C and SIGTERM."""
        self._handlers = {number: signal.signal(number, self._stop) for number in STOP_SIGNALS}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Put the random generators back where the checkpoint had them."""
        if self._random is not None:
            if len(self._random) == trainer.world_size:
                restore_random_state(self._random[trainer.global_rank])
            self._random = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Save at the end of an optimiser step when it is time."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        assert isinstance(pl_module, StageModule)
        # All ranks or none: one that stopped alone would leave the others waiting for it.
        asked = trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False)
        self.interrupted = self.interrupted or asked
        last = step >= pl_module.stage.num_steps
        if self.interrupted or last or step % self.every == 0:
            self.loader.consumed = step * self.micro_batches
            trainer.save_checkpoint(self.folder / f"step-{step:08d}", weights_only=False)
            if trainer.is_global_zero:
                for old in checkpoint_folders(self.folder)[: -self.keep]:
                    trainer.strategy.remove_checkpoint(old)
        if self.interrupted:
            # Lightning validates before it stops; a stop from outside must leave no trace.
            trainer.limit_val_batches = 0
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._give_back()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        print("\nstopping after this step; once more stops at once", file=sys.stderr, flush=True)
