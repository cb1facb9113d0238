"""Log lines, and the time that they are about."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from kikimimi.training.flops import FlopMeter
from kikimimi.training.log_interval import LogInterval
from kikimimi.training.module import StageModule


class Metering(Callback):
    """Logs every so many steps what the interval has gathered; a checkpoint holds what is unlogged."""

    def __init__(self, interval: LogInterval, meter: FlopMeter, log_every: int) -> None:
        self.interval, self.meter, self.log_every = interval, meter, log_every

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure what the device can do."""
        self.interval.matrix_rate = self.meter.matrix_rate(pl_module.device)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the time from here."""
        self.interval.start_clock()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measure how long the micro-batch was waited for."""
        self.interval.arrived()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log every so many optimiser steps."""
        assert isinstance(pl_module, StageModule)
        step = trainer.global_step
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and (step % self.log_every == 0 or step == pl_module.stage.steps):
            values = {
                **self.interval.metrics(pl_module.from_every_rank),
                "gradient_norm": float(pl_module.gradient_norm),
                **{f"lr/{part}": rate for part, rate in pl_module.rates.items()},
            }
            log_values(trainer, values)
            self.interval.clear()
        self.interval.done()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave out the time of a validation: it is not training time."""
        self.interval.stop_clock()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the time again."""
        self.interval.start_clock()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what the next log line is to be the mean of."""
        assert isinstance(pl_module, StageModule)
        # A line that is due at this step is written after this, and stays.
        due = trainer.global_step % self.log_every == 0
        unlogged = LogInterval() if due else self.interval
        checkpoint["unlogged"] = pl_module.from_every_rank(unlogged.state())

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up what was not logged yet."""
        self.interval.restore(checkpoint["unlogged"], trainer.global_rank, trainer.world_size)


def log_values(trainer: pl.Trainer, values: dict[str, float]) -> None:
    """Send values to every logger of a trainer."""
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step)
