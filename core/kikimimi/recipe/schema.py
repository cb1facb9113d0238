"""What a recipe holds, option by option: the dataclasses that a YAML file is resolved to.

A field's metadata carries what its type cannot say: ``kind`` (the field names a plugin of that kind), ``key``
(how YAML spells it where Python cannot) and ``keys`` (the only names that a mapping may hold).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from kikimimi import plugins
from kikimimi.errors import listing, nearest
from kikimimi.generation import Generation

PARTS = ("encoder", "adapter", "llm")
LOGGERS = ("tensorboard",)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _need(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


@dataclass(kw_only=True, frozen=True)
class LoRA:
    """Low-rank adaptation (Hu et al., 2021, https://arxiv.org/abs/2106.09685) of a part's linear layers."""

    rank: int = 16
    """Rank of the update."""
    alpha: float = 32.0
    """Numerator of the update's scale, alpha / rank."""
    dropout: float = 0.0
    """Probability of zeroing an input of the update."""
    targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    """Last names of the linear layers that are adapted."""

    def __post_init__(self) -> None:
        _need(self.rank >= 1, f"rank must be at least 1, not {self.rank}")
        _need(self.alpha > 0, f"alpha must be above 0, not {self.alpha}")
        _need(0 <= self.dropout < 1, f"dropout must be at least 0 and below 1, not {self.dropout}")
        _need(bool(self.targets), "targets must name at least one layer")


@dataclass(kw_only=True, frozen=True)
class Chosen:
    """A plugin that a recipe names, with its options."""

    kind: str
    """Kind of the plugin, as `kikimimi.plugins` spells it."""
    name: str
    """Registered name."""
    config: Any
    """Instance of the plugin's nested `Config`."""
    lora: LoRA | None = None
    """Low-rank adaptation of an encoder, an adapter or an LLM; None means none."""

    @property
    def component(self) -> type[Any]:
        """The plugin's class.

        Raises:
            PluginError: It cannot be loaded.
        """
        return plugins.load(self.kind, self.name)


@dataclass(kw_only=True, frozen=True)
class Train:
    """How one part is trained in a stage."""

    lr: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay [1 / (learning rate x step)]."""
    part: str = "all"
    """Which parameters: ``all``, ``lora``, or a pattern of parameter names in fnmatch style."""

    def __post_init__(self) -> None:
        _need(self.lr > 0, f"lr must be above 0, not {self.lr}")
        _need(self.weight_decay >= 0, f"weight_decay must be 0 or more, not {self.weight_decay}")
        _need(bool(self.part), "part must be all, lora or a parameter pattern, not empty")


@dataclass(kw_only=True, frozen=True)
class Dataset:
    """Shards and the task that makes conversations of their records."""

    shards: str
    """Paths of the tar shards: a path, a glob, or a brace range such as ``train-{000..255}.tar``."""
    task: Chosen = field(metadata={"kind": "task"})
    """What is asked of the records."""
    weight: float | None = None
    """Share of the mixture relative to the stage's other datasets; none of them has one where they are read in
    proportion to their size."""

    def __post_init__(self) -> None:
        _need(bool(self.shards), "shards must name at least one file, not nothing")
        _need(self.weight is None or self.weight > 0, f"weight must be above 0, not {self.weight}")


@dataclass(kw_only=True, frozen=True)
class Batch:
    """How much goes into one step."""

    seconds: float = 60.0
    """Audio per micro-batch [s]."""
    global_: int = field(default=1, metadata={"key": "global"})
    """Micro-batches per optimiser step, over all ranks."""

    def __post_init__(self) -> None:
        _need(self.seconds > 0, f"seconds must be above 0, not {self.seconds}")
        _need(self.global_ >= 1, f"global must be at least 1, not {self.global_}")


@dataclass(kw_only=True, frozen=True)
class Schedule:
    """Learning rate over a stage: a linear warm-up, then a decay."""

    name: Literal["linear", "cosine", "constant"] = "linear"
    """Form of the decay."""
    warmup: int = 0
    """Length of the warm-up [steps]."""
    start: float = 0.1
    """Where the warm-up starts [fraction of the peak]."""
    floor: float = 0.1
    """Where the decay ends [fraction of the peak]."""

    def __post_init__(self) -> None:
        _need(self.warmup >= 0, f"warmup must be 0 or more, not {self.warmup}")
        _need(0 <= self.start <= 1, f"start must be between 0 and 1, not {self.start}")
        _need(0 <= self.floor <= 1, f"floor must be between 0 and 1, not {self.floor}")
        _need(
            self.warmup > 0 or self.start == Schedule.start,
            "start is read only by a warm-up: set warmup above 0",
        )
        _need(
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
        _need(0 <= self.beta1 < 1, f"beta1 must be at least 0 and below 1, not {self.beta1}")
        _need(0 <= self.beta2 < 1, f"beta2 must be at least 0 and below 1, not {self.beta2}")
        _need(self.epsilon > 0, f"epsilon must be above 0, not {self.epsilon}")


@dataclass(kw_only=True, frozen=True)
class Checkpoint:
    """When the state of a stage is saved."""

    every: int = 500
    """Distance between checkpoints [steps]."""
    keep: int = 2
    """How many of the newest are kept."""

    def __post_init__(self) -> None:
        _need(self.every >= 1, f"every must be at least 1, not {self.every}")
        _need(self.keep >= 1, f"keep must be at least 1, not {self.keep}")


@dataclass(kw_only=True, frozen=True)
class Validate:
    """Loss on held-out data during a stage."""

    every: int = 0
    """Distance between validations [steps]; 0 means never."""
    data: dict[str, Dataset] = field(default_factory=dict)
    """Held-out datasets by name."""

    def __post_init__(self) -> None:
        _need(self.every >= 0, f"every must be 0 (never) or more, not {self.every}")
        _need(self.every == 0 or bool(self.data), "data must hold a dataset where every is above 0")
        _need(self.every > 0 or not self.data, "data is read only where every is above 0")


@dataclass(kw_only=True, frozen=True)
class Stage:
    """One stage of training; it starts from where the one before it ended."""

    train: dict[str, Train] = field(metadata={"keys": PARTS})
    """The parts that are trained; the others are frozen."""
    data: dict[str, Dataset]
    """Datasets by name."""
    batch: Batch = field(default_factory=Batch)
    """How much goes into one step."""
    steps: int
    """Length of the stage [optimiser steps]."""
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

    def __post_init__(self) -> None:
        _need(bool(self.train), f"train must hold at least one of {listing(PARTS)}")
        _need(bool(self.data), "data must hold at least one dataset")
        _need(self.steps >= 1, f"steps must be at least 1, not {self.steps}")
        _need(self.clip >= 0, f"clip must be 0 (off) or more, not {self.clip}")
        warmup = self.schedule.warmup
        _need(
            warmup < self.steps, f"schedule.warmup ({warmup}) must be below the stage's steps ({self.steps})"
        )


@dataclass(kw_only=True, frozen=True)
class Evaluation:
    """A test set, how it is scored, and what it is compared with."""

    shards: str
    """Paths of the tar shards, as in a dataset."""
    task: Chosen = field(metadata={"kind": "task"})
    """What is asked of the records."""
    metric: Literal["cer", "wer"] = "cer"
    """Error rate over characters or words."""
    normaliser: str = field(default="none", metadata={"kind": "normaliser"})
    """What is done to reference and prediction before they are compared."""
    generate: Generation = field(default_factory=Generation)
    """How text is generated."""
    batch_seconds: float = 60.0
    """Audio per batch [s]."""
    baselines: dict[str, Chosen] = field(default_factory=dict, metadata={"kind": "recogniser"})
    """Finished systems that transcribe the same clips."""

    def __post_init__(self) -> None:
        _need(bool(self.shards), "shards must name at least one file, not nothing")
        _need(self.batch_seconds > 0, f"batch_seconds must be above 0, not {self.batch_seconds}")


@dataclass(kw_only=True, frozen=True)
class Trainer:
    """Where and how the work runs."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the forward and backward pass."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What it runs on."""
    strategy: Literal["auto", "ddp"] = "auto"
    """How ranks share the work."""
    devices: int = 1
    """Ranks per node."""
    nodes: int = 1
    """Nodes."""
    workers: int = 0
    """Data loader processes per rank; 0 loads in the rank's own process."""
    log_every: int = 10
    """Distance between log lines [steps]."""
    loggers: list[str] = field(default_factory=list)
    """Loggers beside ``metrics.jsonl``: tensorboard."""
    cache_features: bool = True
    """Keep a frozen encoder's features on disk instead of computing them again."""
    cache_limit_gb: float = 20.0
    """Largest size of that cache [GB]."""

    def __post_init__(self) -> None:
        for name, least in {"devices": 1, "nodes": 1, "workers": 0, "log_every": 1}.items():
            value = getattr(self, name)
            _need(value >= least, f"{name} must be at least {least}, not {value}")
        for logger in self.loggers:
            _need(
                logger in LOGGERS,
                f"loggers: '{logger}' is not a logger.{nearest(logger, LOGGERS)} Loggers: {listing(LOGGERS)}",
            )
        _need(len(set(self.loggers)) == len(self.loggers), "loggers names the same logger twice")
        _need(
            not (self.precision == "fp16" and self.accelerator == "cpu"),
            "precision fp16 needs a GPU: use bf16 or fp32",
        )
        _need(self.cache_limit_gb > 0, f"cache_limit_gb must be above 0, not {self.cache_limit_gb}")
        _need(
            self.cache_features or self.cache_limit_gb == Trainer.cache_limit_gb,
            "cache_limit_gb is read only where cache_features is true",
        )


@dataclass(kw_only=True, frozen=True)
class Recipe:
    """A whole experiment: the three parts, the stages of training, the evaluations."""

    name: str
    """Name of the experiment, and of its run folder."""
    seed: int = 0
    """Seed of every random choice."""
    encoder: Chosen = field(metadata={"kind": "encoder"})
    """Waveform to frames."""
    adapter: Chosen = field(metadata={"kind": "adapter"})
    """Frames to audio tokens."""
    llm: Chosen = field(metadata={"kind": "llm"})
    """Audio tokens and text to text."""
    stages: dict[str, Stage]
    """Stages of training in order, by name."""
    evaluate: dict[str, Evaluation] = field(default_factory=dict)
    """Evaluations by name."""
    trainer: Trainer = field(default_factory=Trainer)
    """Where and how the work runs."""

    def __post_init__(self) -> None:
        _need(
            NAME.fullmatch(self.name) is not None,
            f"name '{self.name}' must be made of letters, digits, '.', '_' and '-', "
            "and start with a letter or a digit",
        )
        _need(self.seed >= 0, f"seed must be 0 or more, not {self.seed}")
        _need(bool(self.stages), "stages must hold at least one stage")

    def to_yaml(self) -> str:
        """Return the recipe as YAML: complete, defaults included; loading it gives an equal recipe."""
        from kikimimi.recipe.show import to_yaml

        return to_yaml(self)

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of `to_yaml()`."""
        return hashlib.sha256(self.to_yaml().encode()).hexdigest()
