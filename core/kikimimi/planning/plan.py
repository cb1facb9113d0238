"""What each stage of a recipe will take: parameters, memory, operations, days."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le

from kikimimi.contracts.options import Options, PositiveInt
from kikimimi.costs.operations import measure_costs
from kikimimi.costs.shapes import shapes_only
from kikimimi.data.corpus import all_texts, training_corpora
from kikimimi.errors import RequestError
from kikimimi.model.assembly import assemble
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import Count, check_sources, freeze_all_but, trainable_names
from kikimimi.planning.gpus import find_gpu
from kikimimi.planning.memory import Memory, rank_memory
from kikimimi.planning.workload import Passes, Workload, full_micro_batch, micro_batch_flops
from kikimimi.recipe import Recipe
from kikimimi.recipe.chosen import PARTS

SECONDS_PER_DAY = 86400
_MOST_MODELS = 8  # whose shapes are kept: a sweep plans thousands
NOT_COUNTED = (
    "Not in the memory: what the allocator holds in reserve, workspaces of kernels and of communication, "
    "what a frozen encoder holds for a moment, the CUDA context: leave a tenth free."
)


@dataclass(frozen=True, kw_only=True)
class Hardware(Options):
    """What the work is to run on.

    Attributes:
        gpus: Number of GPUs; None is as many as the recipe has ranks.
        gpu: Name in the table.
        utilisation: Share of the GPU's peak rate that useful operations reach [fraction].
    """

    gpus: PositiveInt | None = None
    gpu: str = "h100"
    utilisation: Annotated[float, Gt(0), Le(1)] = 0.35

    def __post_init__(self) -> None:
        find_gpu(self.gpu)


@dataclass(frozen=True, kw_only=True)
class StageForecast:
    """What one stage is expected to take.

    Attributes:
        name: The stage's name.
        objective: Registered name.
        counts: Parameters of each part, and how many of them this stage trains.
        memory: One rank's memory.
        clips: Clips in a full micro-batch.
        positions: The LLM's positions in it, audio and text.
        audio_tokens_per_second: Rate of audio tokens, at most.
        flops: A micro-batch's operations, by part.
        audio_seconds: Audio in a micro-batch [s].
        steps: Optimiser steps; None where the stage's length is given in epochs.
        micro_batches: Micro-batches in a step, over all ranks.
        days: Days on `gpus` GPUs; None where there is no number of steps.
        notes: What is not as exact as it looks.
    """

    name: str
    objective: str
    counts: dict[str, Count]
    memory: Memory
    clips: int
    positions: int
    audio_tokens_per_second: float
    flops: dict[str, float]
    audio_seconds: float
    steps: int | None
    micro_batches: int
    days: float | None
    notes: tuple[str, ...] = ()

    @property
    def flops_per_audio_hour(self) -> float:
        """Operations for an hour of audio, with the text that goes with it."""
        return sum(self.flops.values()) / self.audio_seconds * 3600

    @property
    def audio_hours(self) -> float | None:
        """Audio that the stage hears, every repetition counted [h]."""
        steps = self.steps
        return None if steps is None else steps * self.micro_batches * self.audio_seconds / 3600

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object; sizes are in bytes."""
        return {
            "name": self.name,
            "objective": self.objective,
            "parameters": {p: {"total": c.total, "trainable": c.trainable} for p, c in self.counts.items()},
            "memory": self.memory.to_json(),
            "clips": self.clips,
            "positions": self.positions,
            "audio_tokens_per_second": self.audio_tokens_per_second,
            "flops_per_micro_batch": self.flops,
            "flops_per_audio_hour": self.flops_per_audio_hour,
            "audio_seconds": self.audio_seconds,
            "audio_hours": self.audio_hours,
            "steps": self.steps,
            "days": self.days,
            "notes": list(self.notes),
        }


@dataclass
class Planner:
    """Plans stages of a recipe and of its variants, without weights, data, network or GPU.

    Attributes:
        workload: What a conversation is like.
        hardware: What the work is to run on.
        reads_data: Whether a tokenizer that the data makes is made; else one of a single character stands
            for it.
    """

    workload: Workload = field(default_factory=Workload)
    hardware: Hardware = field(default_factory=Hardware)
    reads_data: bool = True
    _models: dict[str, tuple[SpeechLM, tuple[str, ...]]] = field(default_factory=dict)

    def gpus(self, recipe: Recipe) -> int:
        """Return how many GPUs a recipe is planned for."""
        return self.hardware.gpus or recipe.trainer.devices * recipe.trainer.nodes

    def plan(self, recipe: Recipe, name: str) -> StageForecast:
        """Plan one stage.

        Raises:
            RecipeError: The parts do not fit each other, the stage trains nothing, or some parameters would
                stay as they were drawn at random.
            WeightsError: The shape of a model is not known.
        """
        stage = recipe.stages[name]
        model, notes = self.model(recipe.at(name))
        check_sources(model, recipe)
        trained = trainable_names(model, stage, where=f"stages.{name}")
        names = [parameter for found in trained.values() for parameter in found]
        freeze_all_but(model, names)
        costs = measure_costs(model, recipe.trainer.precision)
        batch = full_micro_batch(stage.batch, self.workload, model)
        passes = Passes.of(stage.objective)
        flops = micro_batch_flops(
            model, costs, batch, passes, recompute=recipe.trainer.activation_checkpointing
        )
        gpu = find_gpu(self.hardware.gpu)
        rate = self.gpus(recipe) * gpu.peak(recipe.trainer.precision) * self.hardware.utilisation
        per_step = sum(flops.values()) * stage.batch.global_
        estimated = {part: cost.problem for part in PARTS if (cost := getattr(costs, part)).problem}
        notes += tuple(
            f"{part}: counted by its matrices, without activations, as it does not run on the meta device "
            f"({problem})"
            for part, problem in estimated.items()
        )
        copied = _copied(recipe, name, names, model) if passes.reference else 0
        return StageForecast(
            name=name,
            objective=stage.objective.name,
            counts={part: _count(model, part, set(names)) for part in PARTS},
            memory=rank_memory(model, recipe.trainer, costs, batch, passes, copied),
            clips=batch.clips,
            positions=batch.clips * passes.sequences * (batch.prompt + batch.answer),
            audio_tokens_per_second=batch.tokens / batch.seconds,
            flops=flops,
            audio_seconds=batch.audio_seconds,
            steps=stage.steps,
            micro_batches=stage.batch.global_,
            days=None if stage.steps is None else stage.steps * per_step / rate / SECONDS_PER_DAY,
            notes=notes,
        )

    def model(self, recipe: Recipe) -> tuple[SpeechLM, tuple[str, ...]]:
        """Return the model of a recipe on the meta device, and what to say about it."""
        key = repr((recipe.encoder, recipe.adapter, recipe.llm))
        if key not in self._models:
            try:
                model = _assemble(recipe, lambda: self._texts(recipe))
                notes: tuple[str, ...] = ()
            except RequestError as error:
                # A tokenizer that the data makes; one of a single character gives the sizes of all else.
                if "characters" not in key:
                    raise
                model = _assemble(recipe, lambda: ["?"])
                reason = str(error).partition("\n")[0]
                notes = (f"without the tokens that the training data will bring: {reason}",)
            while len(self._models) >= _MOST_MODELS:
                del self._models[next(iter(self._models))]  # the oldest
            self._models[key] = model, notes
        return self._models[key]

    def _texts(self, recipe: Recipe) -> Iterable[str]:
        return all_texts(training_corpora(recipe)) if self.reads_data else ["?"]


def _assemble(recipe: Recipe, texts: Callable[[], Any]) -> SpeechLM:
    with shapes_only(), torch.device("meta"):
        return assemble(recipe, texts=texts, load_weights=False, measured=True)


def _count(model: SpeechLM, part: str, trained: set[str]) -> Count:
    sizes = {f"{part}.{name}": p.numel() for name, p in getattr(model, part).named_parameters()}
    return Count(sum(sizes.values()), sum(size for name, size in sizes.items() if name in trained))


def _copied(recipe: Recipe, name: str, trained: list[str], model: SpeechLM) -> int:
    """Return how many numbers a reference keeps twice: not those of low-rank updates that begin at zero."""
    begun: set[str] = set()
    while (before := recipe.start_of(name)) is not None:
        begun.update(recipe.stages[before].train)
        name = before
    sizes = {path: p.numel() for path, p in model.named_parameters()}
    return sum(sizes[path] for path in trained if ".lora_" not in path or path.partition(".")[0] in begun)
