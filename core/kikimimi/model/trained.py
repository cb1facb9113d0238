"""Which parameters a run has to keep, and loading them back."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kikimimi.errors import RunError, listing
from kikimimi.model.assembly import PARTS, is_random, trainable_names
from kikimimi.model.speech_lm import SpeechLM

if TYPE_CHECKING:
    from kikimimi.recipe import Recipe


def kept_names(model: SpeechLM, recipe: Recipe) -> set[str]:
    """Return the names of the parameters that checkpoints hold.

    They are what any stage trains, and all of a component that has no pretrained source; the rest is
    there by reference.
    """
    names: set[str] = set()
    for stage_name, stage in recipe.stages.items():
        for found in trainable_names(model, stage, where=f"stages.{stage_name}").values():
            names.update(found)
    for part in PARTS:
        if is_random(getattr(recipe, part)):
            names.update(f"{part}.{name}" for name, _ in getattr(model, part).named_parameters())
    return names


def load_kept(model: SpeechLM, state: dict[str, Tensor], kept: Collection[str], *, source: str) -> None:
    """Copy named parameters into a model: all of `kept` and nothing else.

    Raises:
        RunError: The names or shapes differ.
    """
    parameters = dict(model.named_parameters())
    wrong = sorted(set(kept) ^ set(state))
    if wrong:
        raise RunError(f"{source} does not fit the recipe: it differs in {listing(wrong[:5])}")
    with torch.no_grad():
        for name, tensor in state.items():
            if parameters[name].shape != tensor.shape:
                raise RunError(
                    f"{source} does not fit the recipe: {name} is {tuple(tensor.shape)} there and "
                    f"{tuple(parameters[name].shape)} in the model"
                )
            parameters[name].copy_(tensor)


def load_trained(model: SpeechLM, recipe: Recipe, path: Path) -> None:
    """Load a run's safetensors file into its model.

    Raises:
        RunError: The file is damaged or does not fit.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    load_kept(model, state, kept_names(model, recipe), source=str(path))
