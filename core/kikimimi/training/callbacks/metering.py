"""Log lines, and the time that they are about."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from kikimimi.training.flops import FlopMeter
from kikimimi.training.log_interval import LogInterval
from kikimimi.training.module import StageModule


class LogLines(Callback):
    """Logs every so many steps what the interval has gathered.

    Before a checkpoint of that step is saved: one that goes on from it keeps the lines up to there, and no
    kill may come between.
    """

    def __init__(self, interval: LogInterval, log_every: int) -> None:
        self.interval, self.log_every = interval, log_every

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


class Metering(Callback):
    """Measures the time that the log lines are about."""

    def __init__(self, interval: LogInterval, meter: FlopMeter) -> None:
        self.interval, self.meter = interval, meter

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
        """Wait for the next micro-batch from here on."""
        self.interval.done()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave out the time of a validation: it is not training time."""
        self.interval.stop_clock()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the time again."""
        self.interval.start_clock()


def log_values(trainer: pl.Trainer, values: dict[str, float]) -> None:
    """Send values to every logger of a trainer."""
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step)
