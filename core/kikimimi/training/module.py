"""The Lightning module of one stage."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from kikimimi.contracts.batch import Batch
from kikimimi.contracts.objective import Objective
from kikimimi.data.fault import FaultLog
from kikimimi.data.order.loader import StepBatch
from kikimimi.errors import KikimimiError
from kikimimi.model.reference import Reference
from kikimimi.model.sharding import is_sharded
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.stand_in import StandIn, evaluating
from kikimimi.model.step import ModelStep
from kikimimi.model.trainable import load_kept, named_tensors, set_modes
from kikimimi.recipe import Stage
from kikimimi.training.flops import FlopMeter
from kikimimi.training.log_interval import WHOLE, LogInterval, Numbered
from kikimimi.training.optimiser import make_optimiser
from kikimimi.training.parallel.fsdp import complete_gradients, share_buffers
from kikimimi.training.schedule import factor
from kikimimi.training.state.random_state import random_state
from kikimimi.training.step_errors import StepErrors, gradient_norm
from kikimimi.training.step_mean import Counts, StepMean
from kikimimi.weights.tensors import StoredTensor


@dataclass(frozen=True)
class Evaluated:
    """What a micro-batch gave.

    Attributes:
        loss: The objective's and the adapter's losses together, each its mean over the micro-batch.
        terms: What adds up to it, and over how many units each is the mean.
        parts: The same as the metrics show it.
        measures: What else the objective measured.
        counts: What objective and adapter counted.
    """

    loss: Tensor
    terms: Numbered = field(default_factory=dict)
    parts: Numbered = field(default_factory=dict)
    measures: Numbered = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


class StageModule(pl.LightningModule):
    """Trains the named parameters of a model to bring an objective down.

    The loss of a step is the objective's as the mean over all units of the step (tokens, say), plus the
    adapter's auxiliary losses over theirs; with `batch.loss: micro_batches`, the mean over its micro-batches.
    It does not depend on how micro-batches are spread over ranks.

    Args:
        model: Assembled, with exactly `trained` requiring gradients.
        stage: The stage's options; `steps` is given.
        trained: Parameter names by component, or by ``component.group``.
        kept: Names of the tensors that a checkpoint holds; see `kept_names`.
        faults: Judges what could not be read.
        interval: Where losses and counts are gathered for the next log line.
        meter: Counts operations.
        spread: Shards the model over the ranks and fills it; None where every rank holds all of it.
        start: Tensors, by name, that the stage holds in another number format than it was given them in, and
            hands on as they were; see `cast_alone`.
    """

    def __init__(
        self,
        model: SpeechLM,
        stage: Stage,
        trained: dict[str, list[str]],
        kept: Collection[str],
        faults: FaultLog,
        interval: LogInterval,
        meter: FlopMeter,
        spread: Callable[[DeviceMesh], None] | None = None,
        start: Mapping[str, StoredTensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._start = dict(start or {})
        self.stage = stage
        self.objective: Objective = stage.objective.component(stage.objective.config)
        self.trained = trained
        self._reference: Reference | None = None
        self.kept = frozenset(kept)
        self.faults = faults
        self.gradient_norm = torch.zeros(())
        self.rates: dict[str, float] = {}
        self._interval, self._meter = interval, meter
        self._spread = spread
        self._errors = StepErrors()
        self._mean = StepMean() if stage.batch.loss == "tokens" else None
        self.strict_loading = False
        # An LLM's own weights take part in every micro-batch; these may not.
        self._optional = [
            name
            for names in trained.values()
            for name in names
            if not name.startswith("llm.") or ".lora_" in name
        ]
        self.latest_loss = torch.zeros(())
        self._before_validation: dict[str, Any] | None = None

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

    def training_step(self, given: StepBatch, index: int) -> Tensor:
        """Return the loss of a micro-batch. What is wrong with it is raised at the end of the step."""
        batch = given.batch
        try:
            self._judge(batch)
        except KikimimiError as error:
            self._errors.add(error)
        self._errors.see(batch.names)
        if is_sharded(self.model):
            share_buffers(self.model)
        if self._mean is not None and given.ahead:
            self._count_ahead(self._mean, given.ahead)
        with self._meter.counting(self._interval):
            made = self._evaluate(batch, self._mean.counts.pop(0) if self._mean is not None else None)
        loss = made.loss if self._mean is None or not made.terms else self._mean.weighted(made.terms)
        if batch.names:
            loss = loss + self._nothing(self._optional)
        if is_sharded(self.model):
            complete_gradients(self.model, loss)
        self._errors.check_loss(self.trainer.global_step + 1, made.loss, batch.names)
        if batch.names:
            self.latest_loss = made.loss.detach()
            self._interval.add(made.terms, made.parts if len(made.parts) > 1 else {}, made.measures)
        self._interval.counts.update(made.counts)
        self._interval.counts.update(f"records/{name.partition('/')[0]}" for name in batch.names)
        self._count(batch)
        return loss

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> Numbered:
        """Return what adds up to the loss of a micro-batch."""
        self._judge(batch)
        if not batch.names:
            return {}
        terms = self._evaluate(batch).terms
        if isinstance(self.model, FSDPModule):
            self.model.reshard()  # no backward pass comes to do it
        return {name: (value.detach(), number) for name, (value, number) in terms.items()}

    def _judge(self, batch: Batch) -> None:
        self.faults.judge(batch.outcomes or [None] * len(batch.names))
        if skipped := len(batch.outcomes) - batch.outcomes.count(None):
            self._interval.counts["records_skipped"] += skipped

    def _count_ahead(self, mean: StepMean, batches: Sequence[Batch]) -> None:
        """Count the units of this rank's micro-batches of a step, and let all ranks add theirs up."""
        counts = [Counts(self.objective, ModelStep(self.model, batch, self._reference)) for batch in batches]
        mean.begin(counts, self.from_every_rank([one.numbers for one in counts]))

    def _evaluate(self, batch: Batch, counts: Counts | None = None) -> Evaluated:
        """Return the loss, and what the objective and the adapter say of it."""
        if not batch.names and self.model.stand_in is not None:
            return Evaluated(self._stand_in(self.model.stand_in))
        if not batch.names:  # none of its records could be read
            return Evaluated(self._nothing([n for names in self.trained.values() for n in names]))
        step = ModelStep(self.model, batch, self._reference, counts.notes if counts is not None else None)
        if counts is None and self._mean is not None:  # in a validation
            counts = Counts(self.objective, step)
        made = self.objective.loss(step)
        loss = made.value + sum(step.losses.values(), made.value.new_zeros(()))
        if self.model.training:
            self._interval.positions += step.num_positions

        def numbered(values: Mapping[str, Tensor]) -> Numbered:
            of = {name: 1 if counts is None else counts.number(name, made) for name in values}
            return {name: (value, of[name]) for name, value in values.items()}

        return Evaluated(
            loss,
            {WHOLE: (loss, 1)} if counts is None else counts.terms(made, step.losses),
            numbered({**made.parts, **step.losses}),
            numbered(made.measures),
            {**made.counts, **step.counts},
        )

    def _stand_in(self, clip: StandIn) -> Tensor:
        """Return zero, whose gradient passes through every layer that the objective runs."""
        batch = clip.batch(self.model.llm, self.objective.views).to(self.device)
        with evaluating(self.model):
            step = ModelStep(self.model, batch, self._reference)
            value = self.objective.loss(step).value + sum(step.losses.values(), 0)
        return value * 0

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
        self._interval.audio_seconds += real / rate
        self._interval.padding[0] += computed - real
        self._interval.padding[1] += computed

    def configure_optimizers(self) -> Any:
        """Return AdamW with the stage's schedule."""
        optimiser = make_optimiser(self.model, self.stage, self.trained)
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
        self.rates = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
        self.gradient_norm = gradient_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        # With fp16, gradients overflow at times: the scaler leaves such a step out and goes on.
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            self._errors.check_gradient(self.trainer.global_step + 1, self.gradient_norm)
        strategy = self.trainer.strategy
        self._errors.stop_together(
            decide=lambda bad: strategy.reduce_boolean_decision(bad, all=False),
            gather=self.from_every_rank,
        )

    def on_fit_start(self) -> None:
        """Set the modes: Lightning has put every module into train mode by now."""
        set_modes(self.model, eval_mode=self.objective.eval_mode)
        if self._reference is not None:
            self._reference.to(self.device)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Return what a checkpoint holds: the kept tensors by their names in the model."""
        return {name: t.detach() for name, t in named_tensors(self.model).items() if name in self.kept}

    def left_weights(self) -> dict[str, Tensor]:
        """Return what the stage leaves: the kept tensors, and what it only casts as precise as it came."""
        exact = {name: stored.whole() for name, stored in self._start.items()}
        return self.state_dict() | exact

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` returned.

        Raises:
            DamagedError: A parameter is missing, unexpected, or of another shape.
        """
        load_kept(self.model, dict(state_dict), self.kept, source="the checkpoint")

    def on_validation_start(self) -> None:
        """Remember the counts: a run that was stopped in a validation makes it again, whole."""
        self._before_validation = self._counts()

    def on_validation_end(self) -> None:
        """Count the validation."""
        self._before_validation = None

    def _counts(self) -> dict[str, Any]:
        return {"faults": self.faults.state(), "unlogged": self._interval.state()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add of every rank the random generators, the account of what could not be read, and what the next
        log line is to be the mean of.
        """
        checkpoint["random"] = self.from_every_rank(random_state())
        for name, counts in (self._before_validation or self._counts()).items():
            checkpoint[name] = self.from_every_rank(counts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what a checkpoint counted."""
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        self.faults.restore(checkpoint["faults"], rank, world_size)
        self._interval.restore(checkpoint["unlogged"], rank, world_size)

    def from_every_rank(self, mine: Any) -> list[Any]:
        """Return what every rank gave, in order; every rank has to call."""
        if self.trainer.world_size == 1:
            return [mine]
        gathered: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(gathered, mine)
        return gathered
