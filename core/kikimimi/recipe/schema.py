"""What a recipe holds, option by option: the dataclasses that a YAML file is resolved to.

A field's metadata carries what its type cannot say: ``kind`` (the field names a plugin of that kind), ``key``
(how YAML spells it where Python cannot), ``keys`` (the only names that a mapping may hold) and ``noun`` (what
an item of a mapping of plugins is called).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import Literal

from kikimimi.console.words import listing, nearest
from kikimimi.contracts.generation import Generation
from kikimimi.recipe.chosen import PARTS, Chosen, Dtype, LoRA, need
from kikimimi.recipe.stage import (
    Checkpoint,
    Dtypes,
    EarlyStop,
    Gate,
    Group,
    Optimiser,
    Schedule,
    Stage,
    Train,
    Validate,
)
from kikimimi.recipe.stage_data import Batch, Dataset, Faults, Mixture

__all__ = [
    "PARTS",
    "Batch",
    "Checkpoint",
    "Chosen",
    "Dataset",
    "Dtypes",
    "EarlyStop",
    "Evaluation",
    "Faults",
    "Gate",
    "Generation",
    "Group",
    "LoRA",
    "Mixture",
    "Optimiser",
    "Recipe",
    "Schedule",
    "Stage",
    "Train",
    "Trainer",
    "Validate",
]

LOGGERS = ("tensorboard", "wandb")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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
    baselines: dict[str, Chosen] = field(
        default_factory=dict, metadata={"kind": "recogniser", "noun": "baseline"}
    )
    """Finished systems that transcribe the same clips."""

    def __post_init__(self) -> None:
        need(bool(self.shards), "shards must name at least one file, not nothing")
        need(self.batch_seconds > 0, f"batch_seconds must be above 0, not {self.batch_seconds}")


@dataclass(kw_only=True, frozen=True)
class Trainer:
    """Where and how the work runs."""

    precision: Dtype = "fp32"
    """Number format of the forward and backward pass."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """What it runs on."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How ranks share the work: with ddp (auto, where there are several) each holds the whole model, with
    fsdp a piece of every parameter."""
    activation_checkpointing: bool = False
    """Compute what happens inside the blocks once more in the backward pass, instead of keeping it: less
    memory, more time, the same numbers."""
    devices: int = 1
    """Ranks per node."""
    nodes: int = 1
    """Nodes."""
    workers: int = 0
    """Data loader processes per rank; 0 loads in the rank's own process."""
    log_every: int = 10
    """Distance between log lines [steps]."""
    loggers: list[str] = field(default_factory=list)
    """Loggers beside ``metrics.jsonl``: tensorboard, wandb. That one keeps its files in the run folder, and
    sends nothing unless the environment says WANDB_MODE=online."""
    cache_features: bool = True
    """Keep a frozen encoder's features on disk instead of computing them again."""
    cache_limit_gb: float = 20.0
    """Largest size of that cache [GB]."""

    def __post_init__(self) -> None:
        for name, least in {"devices": 1, "nodes": 1, "workers": 0, "log_every": 1}.items():
            value = getattr(self, name)
            need(value >= least, f"{name} must be at least {least}, not {value}")
        for logger in self.loggers:
            need(
                logger in LOGGERS,
                f"loggers: '{logger}' is not a logger.{nearest(logger, LOGGERS)} Loggers: {listing(LOGGERS)}",
            )
        need(len(set(self.loggers)) == len(self.loggers), "loggers names the same logger twice")
        need(
            not (self.precision == "fp16" and self.accelerator == "cpu"),
            "precision fp16 needs a GPU: use bf16 or fp32",
        )
        need(
            not (self.precision == "fp16" and self.strategy == "fsdp"),
            "precision fp16 does not go with strategy fsdp: use bf16 or fp32",
        )
        need(self.cache_limit_gb > 0, f"cache_limit_gb must be above 0, not {self.cache_limit_gb}")
        need(
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
        need(
            NAME.fullmatch(self.name) is not None,
            f"name '{self.name}' must be made of letters, digits, '.', '_' and '-', "
            "and start with a letter or a digit",
        )
        need(self.seed >= 0, f"seed must be 0 or more, not {self.seed}")
        need(bool(self.stages), "stages must hold at least one stage")

    def to_yaml(self) -> str:
        """Return the recipe as YAML: complete, defaults included; loading it gives an equal recipe."""
        from kikimimi.recipe.show import to_yaml

        return to_yaml(self)

    def start_of(self, stage: str) -> str | None:
        """Return the stage whose result a stage starts from, or None for one that starts from the sources."""
        names = list(self.stages)
        place = names.index(stage)
        return self.stages[stage].start_from or (names[place - 1] if place else None)

    def at(self, stage: str) -> Recipe:
        """Return the recipe with its parts as a stage has them: in the number formats that it sets."""
        dtypes = self.stages[stage].dtype
        chosen = {part: getattr(self, part) for part in PARTS}
        changed = {
            part: replace(chosen[part], dtype=getattr(dtypes, part))
            for part in PARTS
            if getattr(dtypes, part) is not None
        }
        return replace(self, **changed)

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of `to_yaml()`."""
        return hashlib.sha256(self.to_yaml().encode()).hexdigest()
