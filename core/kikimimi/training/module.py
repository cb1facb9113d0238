"""The Lightning module of one stage."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from kikimimi.contracts.batch import Batch
from kikimimi.contracts.objective import Loss, Objective
from kikimimi.data.fault import FaultLog
from kikimimi.data.order.loader import StageLoader
from kikimimi.errors import KikimimiError
from kikimimi.model.reference import Reference
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.stand_in import StandIn, evaluating
from kikimimi.model.step import ModelStep
from kikimimi.model.trainable import load_kept, named_tensors, set_modes
from kikimimi.training.best import Best
from kikimimi.training.flops import FlopMeter
from kikimimi.training.parallel.fsdp import complete_gradients, is_sharded, share_buffers
from kikimimi.training.schedule import factor
from kikimimi.training.state.random_state import random_state
from kikimimi.training.troubles import Troubles, gradient_norm
from kikimimi.training.window import LogWindow

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from kikimimi.recipe import Stage


class StageModule(pl.LightningModule):
    """Trains the named parameters of a model to bring an objective down.

    The loss of a step is the mean over its micro-batches of the objective's loss, plus the adapter's
    auxiliary losses; it does not depend on how micro-batches are spread over ranks.

    Args:
        model: Assembled, with exactly `trained` requiring gradients.
        stage: Of the recipe; `steps` is given.
        trained: Parameter names by component, or by ``component.group``.
        kept: Names of the tensors that a checkpoint holds; see `kept_names`.
        log_every: Distance between log lines [steps].
        faults: Judges what could not be read.
        spread: Shards the model over the ranks and fills it; None where every rank holds all of it.
    """

    def __init__(
        self,
        model: SpeechLM,
        stage: Stage,
        trained: dict[str, list[str]],
        kept: Collection[str],
        log_every: int,
        faults: FaultLog,
        spread: Callable[[DeviceMesh], None] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.objective: Objective = stage.objective.component(stage.objective.config)
        self.trained = trained
        self._reference: Reference | None = None
        self.kept = frozenset(kept)
        self.log_every = log_every
        self.faults = faults
        self._spread = spread
        self._troubles = Troubles()
        self.strict_loading = False
        self.best: Best | None = None
        """Told of every validation, where the stage keeps its best weights or may end early."""
        self.meter: FlopMeter | None = None
        """Counts operations, where their share of what the device can do is to be logged."""
        self.missed_validation: StageLoader | None = None
        """What is validated before the first step: a kill came between a checkpoint and its validation."""
        # An LLM's own weights take part in every micro-batch; these may not.
        self._optional = [
            name
            for names in trained.values()
            for name in names
            if not name.startswith("llm.") or ".lora_" in name
        ]
        self.latest_loss = torch.zeros(())
        self._window = LogWindow()
        self._gradient_norm = torch.zeros(())
        self._rates: dict[str, float] = {}
        self._validation: list[Tensor] = []

    def configure_model(self) -> None:
        """Shard the model, where it is to be sharded; before a checkpoint is taken up, remember it as it is,
        where the objective asks for that.
        """
        if self._spread is not None and not is_sharded(self.model):
            assert self.device_mesh is not None
            self._spread(self.device_mesh["data_parallel"])
        parts = self.objective.reference
        if parts and self._reference is None:
            names = [n for found in self.trained.values() for n in found if n.partition(".")[0] in parts]
            self._reference = Reference(self.model, names)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of a micro-batch. What is wrong with it is raised at the end of the step."""
        try:
            self._judge(batch)
        except KikimimiError as error:
            self._troubles.add(error)
        self._troubles.see(batch.names)
        if is_sharded(self.model):
            share_buffers(self.model)
        with self.meter.counting(self._window) if self.meter is not None else nullcontext():
            loss, made = self._loss(batch)
        if is_sharded(self.model):
            complete_gradients(self.model, loss)
        self._troubles.check_loss(self.trainer.global_step + 1, loss, batch.names)
        if batch.names:
            self.latest_loss = loss.detach()
            self._window.add(loss, made.parts if len(made.parts) > 1 else {}, made.measures)
        self._window.counts.update(made.counts)
        self._window.counts.update(f"records/{name.partition('/')[0]}" for name in batch.names)
        self._count(batch)
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        """Add a micro-batch to the validation loss."""
        self._judge(batch)
        if batch.names:
            self._validation.append(self._loss(batch)[0].detach())
            if isinstance(self.model, FSDPModule):
                self.model.reshard()  # no backward pass comes to do it

    def _judge(self, batch: Batch) -> None:
        self.faults.judge(batch.outcomes or [None] * len(batch.names))
        if skipped := len(batch.outcomes) - batch.outcomes.count(None):
            self._window.counts["records_skipped"] += skipped

    def _loss(self, batch: Batch) -> tuple[Tensor, Loss]:
        """Return the loss, and what the objective and the adapter say of it."""
        if not batch.names and self.model.stand_in is not None:
            return self._stand_in(self.model.stand_in)
        if not batch.names:  # none of its records could be read
            nothing = self._nothing([n for names in self.trained.values() for n in names])
            return nothing, Loss(nothing)
        step = ModelStep(self.model, batch, self._reference)
        made = self.objective.loss(step)
        loss = made.value + sum(step.losses.values(), made.value.new_zeros(()))
        self._window.positions += step.num_positions
        said = Loss(loss, {**made.parts, **step.losses}, made.measures, {**made.counts, **step.counts})
        return loss + self._nothing(self._optional), said

    def _stand_in(self, clip: StandIn) -> tuple[Tensor, Loss]:
        """Return zero, whose gradient passes through every layer that the objective runs."""
        batch = clip.batch(self.model.llm, self.objective.views).to(self.device)
        with evaluating(self.model):
            step = ModelStep(self.model, batch, self._reference)
            value = self.objective.loss(step).value + sum(step.losses.values(), 0)
        return value * 0, Loss(value * 0)

    def _nothing(self, names: list[str]) -> Tensor:
        """Return zero, whose gradient with respect to the named parameters is zero, too.

        What a micro-batch does not use (the adapter, where all is text) would have no gradient at all, and
        ranks that wait for one another's gradients would wait for ever.
        """
        zero = torch.zeros((), device=self.device)
        if is_sharded(self.model):
            return zero  # `complete_gradients` sees to it
        for name in names:
            zero = zero + self.model.get_parameter(name).flatten()[:0].sum()
        return zero

    def _count(self, batch: Batch) -> None:
        clips = batch.audio if batch.audio is not None else batch.features
        if clips is None:
            return
        rate = self.model.encoder.sample_rate if batch.audio is not None else self.model.encoder.frame_rate
        real, longest = int(clips.lengths.sum()), clips.values.shape[1]
        if batch.audio is not None and self.model.encoder.padded_seconds is not None:
            longest = max(longest, round(self.model.encoder.padded_seconds * rate))
        computed = len(clips.lengths) * longest
        self._window.audio_seconds += real / rate
        self._window.padding[0] += computed - real
        self._window.padding[1] += computed

    def configure_optimizers(self) -> Any:
        """AdamW with one group per component, or group of a component, and the stage's schedule."""
        parameters = dict(self.model.named_parameters())
        groups = []
        for key, names in self.trained.items():
            part, _, group = key.partition(".")
            train = self.stage.train[part].groups[group] if group else self.stage.train[part]
            groups.append(
                {
                    "name": key,
                    "params": [parameters[name] for name in names],
                    "lr": train.lr,
                    "weight_decay": train.weight_decay,
                }
            )
        settings = self.stage.optimiser
        optimiser = torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), eps=settings.epsilon)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: factor(self.stage.schedule, step, self.stage.num_steps)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Note the learning rates of this step, measure the gradient, and stop where anything is wrong.

        Raises:
            KikimimiError: On any rank, the loss or the gradient is not finite, or too many records cannot be
                read; raised on all ranks, before any weight changes.
        """
        self._rates = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
        self._gradient_norm = gradient_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        # With fp16, gradients overflow at times: the scaler leaves such a step out and goes on.
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            self._troubles.check_gradient(self.trainer.global_step + 1, self._gradient_norm)
        strategy = self.trainer.strategy
        self._troubles.stop_together(
            decide=lambda bad: strategy.reduce_boolean_decision(bad, all=False),
            gather=self._from_every_rank,
        )

    def on_fit_start(self) -> None:
        """Set the modes: Lightning has put every module into train mode by now."""
        if self.meter is not None:
            self._window.matrix_rate = self.meter.matrix_rate(self.device)
        set_modes(self.model)
        if self._reference is not None:
            self._reference.to(self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Measure how long the micro-batch was waited for."""
        self._window.arrived()

    def on_train_start(self) -> None:
        """Make up for a missed validation; what it draws at random is put back before the first step."""
        self._window.start_clock()
        if self.missed_validation is None:
            return
        self.on_validation_start()
        self.model.eval()
        with torch.no_grad(), self.trainer.precision_plugin.val_step_context():
            for number, batch in enumerate(self.missed_validation):
                self.validation_step(batch.to(self.device), number)
        self.model.train()
        set_modes(self.model)
        self.on_validation_end()
        self.missed_validation = None
        if self.trainer.global_step >= self.stage.num_steps:
            self.trainer.should_stop = True

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log every so many optimiser steps."""
        self._log_step(batch_idx)
        self._window.done()

    def _log_step(self, batch_idx: int) -> None:
        step = self.trainer.global_step
        stepped = (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0
        if not stepped or (step % self.log_every and step != self.stage.steps):
            return
        self.write(
            {
                **self._window.metrics(self._from_every_rank),
                "gradient_norm": float(self._gradient_norm),
                **{f"lr/{part}": rate for part, rate in self._rates.items()},
            }
        )
        self._window.clear()

    def on_validation_start(self) -> None:
        """Begin a new mean."""
        self._validation = []
        self._window.stop_clock()

    def on_validation_end(self) -> None:
        """Log the mean of the validation losses; the time it took is not training time."""
        self._window.resume_clock()
        if not self._validation:
            return
        loss = self.trainer.strategy.reduce(torch.stack(self._validation).mean(), reduce_op="mean")
        if self.best is not None:
            # Before the metrics: where they have a loss, its weights are there.
            self.best.add(self.trainer.global_step, float(loss), delete=self.trainer.is_global_zero)
        self.write({"validation_loss": float(loss)})
        if self.best is not None and self.best.stalled():
            self.trainer.should_stop = True

    def write(self, values: dict[str, float]) -> None:
        """Send values to every logger of the trainer."""
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.trainer.global_step)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Return what a checkpoint holds: the kept tensors by their names in the model."""
        return {name: t.detach() for name, t in named_tensors(self.model).items() if name in self.kept}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` returned.

        Raises:
            RunError: A parameter is missing, unexpected, or of another shape.
        """
        load_kept(self.model, dict(state_dict), self.kept, source="the checkpoint")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the random generators of every rank, and what the next log line is to be the mean of."""
        checkpoint["random"] = self._from_every_rank(random_state())
        # A line that is due at this step is written after this, and stays.
        due = self.trainer.global_step % self.log_every == 0
        unlogged = LogWindow() if due else self._window
        checkpoint["unlogged"] = self._from_every_rank(unlogged.state())
        checkpoint["faults"] = self._from_every_rank(self.faults.state())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what was not logged yet."""
        trainer = self.trainer
        self._window.restore(checkpoint["unlogged"], trainer.global_rank, trainer.world_size)
        self.faults.restore(checkpoint["faults"], trainer.global_rank, trainer.world_size)

    def _from_every_rank(self, mine: Any) -> list[Any]:
        if self.trainer.world_size == 1:
            return [mine]
        gathered: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(gathered, mine)
        return gathered
