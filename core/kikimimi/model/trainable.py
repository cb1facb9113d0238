"""From a recipe to a model: builds the three parts, tells each what it has to know, and counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn

from kikimimi.console.words import listing, nearest
from kikimimi.errors import RecipeError
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe.chosen import PARTS

if TYPE_CHECKING:
    from kikimimi.recipe import Recipe, Stage


def trainable_names(
    model: SpeechLM, stage: Stage, *, where: str, check_dtype: bool = True
) -> dict[str, list[str]]:
    """Return the names of the parameters that a stage trains, by component, or by ``component.group``.

    Args:
        model: The recipe's model.
        stage: A stage of the recipe.
        where: The stage's key, for messages.
        check_dtype: Refuse parameters of half precision; not where the model is as another stage has it.

    Raises:
        RecipeError: A `part` matches no parameter, or parameters of half precision.
    """
    found: dict[str, list[str]] = {}
    problems = []
    for part, train in stage.train.items():
        parameters = dict(getattr(model, part).named_parameters())
        names = [name for name in parameters if f"{part}.{name}" not in model.fixed]
        taken: set[str] = set()
        for key, pattern in [*((f"{part}.{n}", g.part) for n, g in train.groups.items()), (part, train.part)]:
            matched = _matching(names, pattern)
            chosen = [name for name in matched if name not in taken]
            taken.update(chosen)
            place = f"{where}.train.{part}" + (f".groups.{key.partition('.')[2]}" if key != part else "")
            if not matched:
                problems.append(
                    f"{place}.part: {pattern!r} matches no parameter of the {part}."
                    f"{nearest(pattern, names)} Allowed: all, lora, or a pattern over names such as "
                    f"{listing(names[:3])}"
                )
            elif not chosen:
                problems.append(f"{place}.part: other groups have every parameter that {pattern!r} matches")
            half = [name for name in chosen if parameters[name].dtype != torch.float32]
            if half and check_dtype:
                problems.append(
                    f"{place}: trains {half[0]}, which is {parameters[half[0]].dtype}, and "
                    f"optimisers need fp32. Take {part}.dtype away, or set {where}.dtype.{part}=fp32: "
                    "trainer.precision does the rest"
                )
            found[key] = [f"{part}.{name}" for name in chosen]
    if problems:
        raise RecipeError(problems)
    return found


def _matching(names: list[str], pattern: str) -> list[str]:
    if pattern == "all":
        return names
    if pattern == "lora":
        return [name for name in names if ".lora_" in name]
    return [name for name in names if fnmatchcase(name, pattern)]


def freeze_all_but(model: SpeechLM, names: Iterable[str]) -> None:
    """Let exactly these parameters train; a component without any goes to eval mode."""
    wanted = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
    set_modes(model)


def set_modes(model: SpeechLM) -> None:
    """Put modules that train into train mode and frozen ones, dropout and all, into eval mode.

    What changes the encoder's input at random works also where the encoder is frozen.
    """
    for part in PARTS:
        _set_mode(getattr(model, part), False)
    if model.encoder.augmentation is not None:
        model.encoder.augmentation.train()


def _set_mode(module: nn.Module, above: bool) -> None:
    """Set a module's mode by the parameters in it; one without any (dropout) goes with what it is part of."""
    parameters = list(module.parameters())
    module.training = any(p.requires_grad for p in parameters) if parameters else above
    for child in module.children():
        _set_mode(child, module.training)


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
        for names in trainable_names(model, stage, where=f"stages.{name}", check_dtype=False).values():
            trained.update(names)
    counts = {}
    for part in PARTS:
        parameters = {f"{part}.{name}": p.numel() for name, p in getattr(model, part).named_parameters()}
        counts[part] = Count(
            sum(parameters.values()), sum(size for name, size in parameters.items() if name in trained)
        )
    return counts
