"""The training step: kikimimi's own module of a stage, through Lightning, on one micro-batch."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch

from kikimimi.data.fault import FaultLog
from kikimimi.data.order.loader import StepBatch
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import freeze_all_but, kept_names, trainable_names
from kikimimi.training.fit import PRECISIONS
from kikimimi.training.flops import FlopMeter
from kikimimi.training.log_interval import LogInterval
from kikimimi.training.module import StageModule
from kikimimi.training.parallel.fsdp import ShardedStrategy, shard_for_training

from .clock import forget_peak, peak_memory, wait
from .operations import rates, step_operations
from .subject import Subject


@dataclass(frozen=True)
class Repeated:
    """A loader that gives one micro-batch again and again."""

    batch: StepBatch
    times: int

    def __iter__(self) -> Iterator[StepBatch]:
        return repeat(self.batch, self.times)


class StepTimes(pl.Callback):
    """Times every optimiser step [s], with what the device still has to do."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        wait(self.device)
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        wait(self.device)
        self.seconds.append(time.perf_counter() - self._start)
        self.losses.append(float(pl_module.latest_loss))


def adapter(subject: Subject) -> dict[str, Any]:
    """The adapter trains, the LLM is frozen."""
    return measure(subject, "adapter", subject.model("adapter"))


def lora(subject: Subject) -> dict[str, Any]:
    """The adapter and low-rank updates of the LLM train."""
    return measure(subject, "lora", subject.model("lora"))


def fsdp(subject: Subject) -> dict[str, Any]:
    """The same step with every parameter sharded over one rank: what gathering and sharding cost at least."""
    try:
        return measure(subject, "adapter", subject.model("adapter"), sharded=True)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def compiled(subject: Subject) -> dict[str, Any]:
    """The same step with each block of encoder and LLM compiled, and without."""
    plain = measure(subject, "adapter", subject.model("adapter"))
    model = subject.model("adapter")
    for block in model.blocks():
        block.compile(backend=subject.size.backend)
    made = measure(subject, "adapter", model)
    return {
        "backend": subject.size.backend,
        "first_step_seconds": made["first_step_seconds"],
        "step_seconds": {"off": plain["step_seconds"], "on": made["step_seconds"]},
        "peak_memory": {"off": plain["peak_memory"], "on": made["peak_memory"]},
        "speed_up": plain["step_seconds"] / made["step_seconds"],
    }


def measure(subject: Subject, stage: str, model: SpeechLM, *, sharded: bool = False) -> dict[str, Any]:
    """Train a few steps and return what they take."""
    size, device = subject.size, subject.device
    recipe = subject.recipe(stage)
    options = recipe.stages[stage]
    trained = trainable_names(model, options, where=f"stages.{stage}")
    freeze_all_but(model, [name for names in trained.values() for name in names])
    planned = subject.forecast(
        stage
    )  # first: what it counts on the meta device, the meter does not count here
    shape, batch = subject.shape(model, stage), subject.batch(model, stage)
    operations = step_operations(model, shape)
    interval, times = LogInterval(), StepTimes(device)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice, and FSDP's
        module = StageModule(
            model,
            options,
            trained,
            kept_names(model, recipe, stage),
            FaultLog(Path(folder) / "faults.jsonl", options.faults),
            interval,
            FlopMeter(model, recipe.trainer.precision),
            (lambda mesh: shard_for_training(model, mesh, recipe.trainer.precision)) if sharded else None,
        )
        strategy = ShardedStrategy(1, None if device.type == "cuda" else "gloo") if sharded else "auto"
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            strategy=strategy,
            precision=PRECISIONS[recipe.trainer.precision],  # type: ignore[arg-type]
            max_steps=size.warm_up + size.steps,
            max_epochs=-1,
            gradient_clip_val=options.clip,
            callbacks=[times],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        forget_peak(device)
        trainer.fit(module, Repeated(StepBatch(batch, (batch,)), size.warm_up + size.steps))
    seconds = statistics.median(times.seconds[size.warm_up :])
    steps = len(times.seconds)
    positions = shape.clips * (shape.prompt + shape.answer)
    compared = rates(device)
    peak = peak_memory(device)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "clips": shape.clips,
        "positions": positions,
        "targets": shape.clips * shape.answer,
        "audio_seconds": shape.audio_seconds,
        "first_step_seconds": times.seconds[0],
        "step_seconds": seconds,
        "positions_per_second": positions / seconds,
        "targets_per_second": shape.clips * shape.answer / seconds,
        "audio_seconds_per_second": shape.audio_seconds / seconds,
        "operations": operations,
        "operations_counted": interval.flops / steps,
        "matrix_rate": compared,
        "mfu": _share(operations / seconds, compared["data_sheet"]),
        "mfu_of_measured": _share(operations / seconds, compared["measured"]),
        "peak_memory": peak,
        "planned_memory": planned,
        "losses": times.losses,
    }


def _share(rate: float, of: float | str | None) -> float | None:
    return rate / of if isinstance(of, float) else None
