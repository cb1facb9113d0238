"""From a recipe to a model: builds the three parts, tells each what it has to know, and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kikimimi.errors import RecipeError, listing, nearest
from kikimimi.interfaces import AdapterContext, LLMContext
from kikimimi.model.lora import add_lora
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe.chosen import PARTS

if TYPE_CHECKING:
    from kikimimi.recipe import Chosen, Recipe, Stage


def assemble(
    recipe: Recipe,
    *,
    texts: Callable[[], Iterable[str]] | None = None,
    assets: Path | None = None,
    load_weights: bool = True,
) -> SpeechLM:
    """Build the model of a recipe.

    Args:
        recipe: Resolved.
        texts: Yields every text of the training data, for a tokenizer built from it.
        assets: Folder of an earlier `save_assets`, which then stands in for `texts`.
        load_weights: Whether to read pretrained weights; without, what they would fill is unspecified.

    Raises:
        RecipeError: The parts do not fit each other or the data.
        WeightsError: Weights are missing or do not fit.
    """
    # Random initialisation is part of the recipe: the same seed gives the same start, whatever ran before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = _build(recipe.encoder, "encoder")
        llm = _build(
            recipe.llm, "llm", LLMContext(texts=texts, assets=assets / "llm" if assets is not None else None)
        )
        context = AdapterContext(in_dim=encoder.dim, out_dim=llm.dim, frame_rate=encoder.frame_rate)
        adapter = _build(recipe.adapter, "adapter", context)
        fixed: set[str] = set()
        for where, chosen, part in zip(
            PARTS,
            (recipe.encoder, recipe.adapter, recipe.llm),
            (encoder, adapter, llm),
            strict=True,
        ):
            if load_weights:
                part.load_weights()
            fixed.update(f"{where}.{n}" for n, p in part.named_parameters() if not p.requires_grad)
            if chosen.lora is not None:
                add_lora(part, chosen.lora, where=where)
    return SpeechLM(encoder, adapter, llm, frozenset(fixed))


def _build(chosen: Chosen, where: str, *context: object) -> Any:
    try:
        part = chosen.component(chosen.config, *context)
    except RecipeError:
        raise
    except ValueError as error:
        if type(error) is not ValueError:  # a KikimimiError says already what it is about
            raise
        raise RecipeError([f"{where}: {error}"]) from error
    return part


def is_random(chosen: Chosen) -> bool:
    """Whether the component starts from random weights, so that a checkpoint has to hold all of it."""
    return getattr(chosen.config, "weights", "random") == "random"


def trainable_names(model: SpeechLM, stage: Stage, *, where: str) -> dict[str, list[str]]:
    """Return the names of the parameters that a stage trains, by component.

    Raises:
        RecipeError: A `part` matches no parameter.
    """
    found: dict[str, list[str]] = {}
    problems = []
    for part, train in stage.train.items():
        parameters = getattr(model, part).named_parameters()
        names = [name for name, _ in parameters if f"{part}.{name}" not in model.fixed]
        if train.part == "all":
            chosen = names
        elif train.part == "lora":
            chosen = [name for name in names if ".lora_" in name]
        else:
            chosen = [name for name in names if fnmatchcase(name, train.part)]
        if not chosen:
            problems.append(
                f"{where}.train.{part}.part: {train.part!r} matches no parameter of the {part}."
                f"{nearest(train.part, names)} Allowed: all, lora, or a pattern over names such as "
                f"{listing(names[:3])}"
            )
        found[part] = [f"{part}.{name}" for name in chosen]
    if problems:
        raise RecipeError(problems)
    return found


def freeze_all_but(model: SpeechLM, names: Iterable[str]) -> None:
    """Let exactly these parameters train; a component without any goes to eval mode."""
    wanted = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
    set_modes(model)


def set_modes(model: SpeechLM) -> None:
    """Put components that train into train mode and frozen ones, dropout and all, into eval mode."""
    for part in PARTS:
        component = getattr(model, part)
        component.train(any(parameter.requires_grad for parameter in component.parameters()))


@dataclass(frozen=True)
class Count:
    """Parameters of a component.

    Attributes:
        total: All of them; a tied pair counts once.
        trainable: Those that some stage trains.
    """

    total: int
    trainable: int


def count_parameters(model: SpeechLM, recipe: Recipe) -> dict[str, Count]:
    """Count the parameters of each part, and how many some stage trains."""
    trained: set[str] = set()
    for name, stage in recipe.stages.items():
        for names in trainable_names(model, stage, where=f"stages.{name}").values():
            trained.update(names)
    counts = {}
    for part in PARTS:
        parameters = {f"{part}.{name}": p.numel() for name, p in getattr(model, part).named_parameters()}
        counts[part] = Count(
            sum(parameters.values()), sum(size for name, size in parameters.items() if name in trained)
        )
    return counts
