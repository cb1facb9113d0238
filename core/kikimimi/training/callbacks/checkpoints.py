"""Checkpoints, and stopping without loss."""

import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from kikimimi.console.signals import Stopped
from kikimimi.data.order.loader import StageLoader
from kikimimi.run.folder import checkpoint_folders, checkpoint_step
from kikimimi.training.module import StageModule
from kikimimi.training.state.checkpoint import save_together
from kikimimi.training.state.random_state import restore_random_state, seed_random_state
from kikimimi.training.stop import AfterStep, at_once, handle


class KeepCheckpoints(Callback):
    """Saves every so many steps, at the end, and when asked to stop; keeps the newest few.

    The first Ctrl-C, or a scheduler's SIGTERM or SIGUSR1, lets the step finish, saves and stops on every
    rank; in a validation, it saves the step before it. The second Ctrl-C stops at once. Before the first step
    all of them do: nothing is lost there.
    """

    def __init__(
        self, folder: Path, every: int, keep: int, loader: StageLoader, micro_batches: int, seed: int
    ) -> None:
        self.folder, self.every, self.keep, self.seed = folder, every, keep, seed
        self.loader, self.micro_batches = loader, micro_batches
        self.interrupted: int | None = None
        """The signal that stopped the stage."""
        self._random: list[dict[str, Any]] | None = None
        self._asked = AfterStep()
        loader.waiting = self._asked.stop_if_overdue
        self._stepping = False
        self._before_validation: dict[str, Any] | None = None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the random state until the first step: building loaders may draw numbers."""
        assert isinstance(pl_module, StageModule)
        self._random = checkpoint["random"]
        saved = len(checkpoint["random"])
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        if checkpoint["global_step"] < pl_module.stage.num_steps:
            progress["is_last_batch"] = False  # it was, where the stage has been lengthened since
        if saved != trainer.world_size:
            # Lightning counts the micro-batches of one rank; of so many ranks each has had another number.
            for counts in (progress["total"], progress["current"]):
                underway = counts["ready"] - counts["completed"]  # the one at whose end it was saved
                counts.update(dict.fromkeys(counts, counts["ready"] * saved // trainer.world_size))
                counts["completed"] -= underway

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, whose handlers talk to other ranks inside of a step."""
        handle(at_once)  # Lightning puts back in the end what was there before it

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before the first step, put the random generators where they have to be."""
        if not self._stepping:
            handle(self._asked)
            self._stepping = True
            self._begin_drawing(trainer.global_rank, trainer.world_size, trainer.global_step)

    def _begin_drawing(self, rank: int, world_size: int, step: int) -> None:
        """Put the random generators back where the checkpoint had them.

        Where it is of another number of ranks, every rank begins anew; where there is none, all but the
        first: what Lightning has seeded is alike on all of them.
        """
        saved, self._random = self._random, None
        if saved is not None and len(saved) == world_size:
            restore_random_state(saved[rank])
        elif saved is not None or rank > 0:
            seed_random_state(self.seed, self.folder.name, rank, step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save at the end of an optimiser step when it is time."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        assert isinstance(pl_module, StageModule)
        self.loader.consumed = step * self.micro_batches
        asked = self._signal_of_any(trainer)
        last = step >= pl_module.stage.num_steps
        if asked or last or step % self.every == 0:
            self._save(trainer)
        if asked:
            self.interrupted = asked
            # Lightning validates before it stops; a stop from outside must leave no trace.
            trainer.limit_val_batches = 0
            trainer.should_stop = True
        elif (every := pl_module.stage.validate.every) and step % every == 0:
            self._before_validation = deepcopy(trainer.fit_loop.state_dict())

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave a validation when asked to stop; the run that goes on makes up for it.

        Raises:
            Stopped: It was asked; the step before the validation is saved.
        """
        if asked := self._signal_of_any(trainer):
            if not (self.folder / f"step-{trainer.global_step:08d}").exists():
                self._save(trainer)
            raise Stopped(asked)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """In a validation, save the loops as they stood at the end of the step."""
        if trainer.validating and self._before_validation is not None:
            checkpoint["loops"]["fit_loop"] = self._before_validation

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing is lost by stopping from here on."""
        if self._asked.signal is None:  # else it is stopping already
            handle(at_once)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """End the ranks that Lightning started: what they would wait for does not come."""
        if (launcher := trainer.strategy.launcher) is not None:
            launcher.kill(signal.SIGTERM if isinstance(exception, Stopped) else signal.SIGKILL)

    def _save(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # a checkpoint that is on the disk has its log lines there
        save_together(trainer, self.folder / f"step-{trainer.global_step:08d}")
        if trainer.is_global_zero:
            # A later one is damaged: the stage has gone on from before it, and will replace it.
            saved = [f for f in checkpoint_folders(self.folder) if checkpoint_step(f) <= trainer.global_step]
            for old in saved[: -self.keep]:
                trainer.strategy.remove_checkpoint(old)

    def _signal_of_any(self, trainer: pl.Trainer) -> int:
        """Return the signal that any rank got, or 0. All ranks stop or none: one would be waited for."""
        mine = self._asked.signal or 0
        if trainer.world_size == 1:
            return mine
        signals = torch.tensor(mine, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(signals, reduce_op="max"))
