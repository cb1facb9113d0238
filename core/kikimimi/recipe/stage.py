"""One stage of training: what is trained, on which data, in which steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kikimimi.console.words import listing
from kikimimi.recipe.chosen import PARTS, Chosen, Dtype, need
from kikimimi.recipe.stage_data import Batch, Dataset, Faults, Mixture


@dataclass(kw_only=True, frozen=True)
class Group:
    """Parameters of a part that are trained in a way of their own."""

    part: str
    """Which parameters: ``lora``, or a pattern of parameter names in fnmatch style."""
    lr: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay [1 / (learning rate x step)]."""

    def __post_init__(self) -> None:
        _check_training(self)


@dataclass(kw_only=True, frozen=True)
class Train:
    """How one part is trained in a stage."""

    lr: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay [1 / (learning rate x step)]."""
    part: str = "all"
    """Which parameters: ``all``, ``lora``, or a pattern of parameter names in fnmatch style."""
    groups: dict[str, Group] = field(default_factory=dict)
    """Parameters that are trained in another way, by a name for the metrics, whether `part` covers them or
    not; of two groups that match a parameter, the first has it."""

    def __post_init__(self) -> None:
        _check_training(self)


def _check_training(of: Train | Group) -> None:
    need(of.lr > 0, f"lr must be above 0, not {of.lr}")
    need(of.weight_decay >= 0, f"weight_decay must be 0 or more, not {of.weight_decay}")
    need(bool(of.part), "part must be all, lora or a parameter pattern, not empty")


@dataclass(kw_only=True, frozen=True)
class Schedule:
    """Learning rate over a stage: a linear warm-up, then a decay."""

    name: Literal["linear", "cosine", "constant"] = "linear"
    """Form of the decay."""
    warmup: int = 0
    """Length of the warm-up [steps]; a stage that is shorter ends inside it."""
    start: float = 0.1
    """Where the warm-up starts [fraction of the peak]."""
    floor: float = 0.1
    """Where the decay ends [fraction of the peak]."""

    def __post_init__(self) -> None:
        need(self.warmup >= 0, f"warmup must be 0 or more, not {self.warmup}")
        need(0 <= self.start <= 1, f"start must be between 0 and 1, not {self.start}")
        need(0 <= self.floor <= 1, f"floor must be between 0 and 1, not {self.floor}")
        need(
            self.warmup > 0 or self.start == Schedule.start,
            "start is read only by a warm-up: set warmup above 0",
        )
        need(
            self.name != "constant" or self.floor == Schedule.floor,
            "floor is read only by a decay: set name to cosine or linear",
        )


@dataclass(kw_only=True, frozen=True)
class Optimiser:
    """AdamW (Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101)."""

    beta1: float = 0.9
    """Decay of the running mean of the gradient."""
    beta2: float = 0.999
    """Decay of the running mean of the squared gradient."""
    epsilon: float = 1e-8
    """Added to the denominator."""

    def __post_init__(self) -> None:
        need(0 <= self.beta1 < 1, f"beta1 must be at least 0 and below 1, not {self.beta1}")
        need(0 <= self.beta2 < 1, f"beta2 must be at least 0 and below 1, not {self.beta2}")
        need(self.epsilon > 0, f"epsilon must be above 0, not {self.epsilon}")


@dataclass(kw_only=True, frozen=True)
class Checkpoint:
    """When the state of a stage is saved."""

    every: int = 500
    """Distance between checkpoints [steps]."""
    keep: int = 2
    """How many of the newest are kept."""
    keep_best: int = 0
    """How many checkpoints are kept besides: those of the lowest validation losses."""
    leave: Literal["last", "best"] = "last"
    """Which weights the stage leaves: those of its last step, or of its lowest validation loss."""

    def __post_init__(self) -> None:
        need(self.every >= 1, f"every must be at least 1, not {self.every}")
        need(self.keep >= 1, f"keep must be at least 1, not {self.keep}")
        need(self.keep_best >= 0, f"keep_best must be 0 or more, not {self.keep_best}")
        need(self.leave == "last" or self.keep_best >= 1, "leave: best needs keep_best of at least 1")


@dataclass(kw_only=True, frozen=True)
class Validate:
    """Loss on held-out data during a stage."""

    every: int = 0
    """Distance between validations [steps]; 0 switches them off."""
    data: dict[str, Dataset] = field(default_factory=dict)
    """Held-out datasets by name."""

    def __post_init__(self) -> None:
        need(self.every >= 0, f"every must be 0 (never) or more, not {self.every}")
        need(self.every == 0 or bool(self.data), "data must hold a dataset where every is above 0")


@dataclass(kw_only=True, frozen=True)
class EarlyStop:
    """Ends a stage when its validation loss no longer falls."""

    patience: int = 3
    """Validations in a row without a new lowest loss, after which the stage ends."""
    min_delta: float = 0.0
    """How far below the lowest a loss has to be to count as lower."""

    def __post_init__(self) -> None:
        need(self.patience >= 1, f"patience must be at least 1, not {self.patience}")
        need(self.min_delta >= 0, f"min_delta must be 0 or more, not {self.min_delta}")


@dataclass(kw_only=True, frozen=True)
class Gate:
    """What has to be reached for later stages to begin."""

    max: float
    """Largest error rate [%]."""

    def __post_init__(self) -> None:
        need(self.max >= 0, f"max must be 0 or more, not {self.max}")


@dataclass(kw_only=True, frozen=True)
class Dtypes:
    """Number formats of the parts' weights in one stage; null is the part's own."""

    encoder: Dtype | None = None
    """Of the encoder."""
    adapter: Dtype | None = None
    """Of the adapter."""
    llm: Dtype | None = None
    """Of the LLM."""


def _ce() -> Chosen:
    return Chosen.of("objective", "ce")


@dataclass(kw_only=True, frozen=True)
class Stage:
    """One stage of training; it starts from where the one before it ended."""

    start_from: str | None = None
    """Stage whose result this one starts from; None is the one before it."""
    objective: Chosen = field(default_factory=_ce, metadata={"kind": "objective"})
    """What the loss is."""
    train: dict[str, Train] = field(metadata={"keys": PARTS})
    """The parts that are trained; the others are frozen."""
    dtype: Dtypes = field(default_factory=Dtypes)
    """Number formats of the weights in this stage: an LLM that is frozen here may take half the memory."""
    data: dict[str, Dataset]
    """Datasets by name."""
    mixture: Mixture = field(default_factory=Mixture)
    """How they are mixed."""
    faults: Faults = field(default_factory=Faults)
    """What is done about records that cannot be used."""
    batch: Batch = field(default_factory=Batch)
    """How much goes into one step."""
    steps: int | None = None
    """Length of the stage [optimiser steps]."""
    epochs: int | None = None
    """Length of the stage in passes over its data, in place of steps; with weights, a pass is as many records
    as all datasets have together. A last step that is not full takes micro-batches of a further pass."""
    optimiser: Optimiser = field(default_factory=Optimiser)
    """AdamW's constants."""
    schedule: Schedule = field(default_factory=Schedule)
    """Learning rate over the stage."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 means that it is not clipped."""
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    """When the state is saved."""
    validate: Validate = field(default_factory=Validate)
    """Loss on held-out data."""
    early_stop: EarlyStop | None = None
    """Ends the stage early; None means that it runs to its end."""
    evaluate: list[str] = field(default_factory=list)
    """Evaluations of the recipe that are scored with what the stage leaves."""
    gate: dict[str, Gate] = field(default_factory=dict)
    """What has to be reached in an evaluation with what the stage leaves; otherwise no later stage begins."""

    def __post_init__(self) -> None:
        need(bool(self.train), f"train must hold at least one of {listing(PARTS)}")
        need(bool(self.data), "data must hold at least one dataset")
        need(
            self.mixture == Mixture() or len(self.data) > 1,
            "mixture says how datasets are mixed, and there is only one",
        )
        need(
            self.mixture.by == "samples"
            or self.mixture.temperature != 1
            or any(source.weight is not None for source in self.data.values()),
            "mixture.by is read only where the datasets have weights or the temperature is not 1",
        )
        need(self.clip >= 0, f"clip must be 0 (off) or more, not {self.clip}")
        need(
            self.steps is None or self.epochs is None,
            "epochs: stands in place of steps: give one of the two, or where another recipe gives the other, "
            "set that to null",
        )
        need(self.steps is None or self.steps >= 1, f"steps must be at least 1, not {self.steps}")
        need(self.epochs is None or self.epochs >= 1, f"epochs must be at least 1, not {self.epochs}")
        need(
            self.early_stop is None or self.validate.every > 0,
            "early_stop looks at the validation loss: set validate.every and validate.data",
        )
        need(
            self.checkpoint.keep_best == 0 or self.validate.every > 0,
            "checkpoint.keep_best looks at the validation loss: set validate.every and validate.data",
        )
        need(len(set(self.evaluate)) == len(self.evaluate), "evaluate names the same evaluation twice")

    @property
    def scored(self) -> list[str]:
        """The evaluations that are scored at the end of the stage: those of `evaluate`, then of `gate`."""
        return list(dict.fromkeys([*self.evaluate, *self.gate]))

    @property
    def num_steps(self) -> int:
        """Length of the stage [optimiser steps].

        Raises:
            ValueError: It is given in epochs, which only the data can tell.
        """
        if self.steps is None:
            raise ValueError("the stage's length is given in epochs")
        return self.steps
