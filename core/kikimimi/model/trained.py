"""Which parameters a run has to keep, and loading them back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from kikimimi.console.words import listing
from kikimimi.errors import RunError
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import trainable_names
from kikimimi.recipe.chosen import PARTS
from kikimimi.weights.tensors import StoredTensor, copy_into, stored_tensors

if TYPE_CHECKING:
    from kikimimi.recipe import Recipe


def kept_names(model: SpeechLM, recipe: Recipe, stage: str | None = None) -> set[str]:
    """Return the names of the tensors that checkpoints of a stage hold.

    They are the parameters that the stage or one that it builds on trains, those that have no pretrained
    source, and the buffers of the components that either belong to (running statistics); the rest is there by
    reference.

    Args:
        model: The recipe's model.
        recipe: Whose stages count.
        stage: None counts every stage.
    """
    names: set[str] = set()
    for stage_name in recipe.stages if stage is None else lineage(recipe, stage):
        chosen = recipe.stages[stage_name]
        for found in trainable_names(model, chosen, where=f"stages.{stage_name}", check_dtype=False).values():
            names.update(found)
    parameters = {name for name, _ in model.named_parameters()}
    names.update(parameters - model.pretrained)
    buffers = named_tensors(model).keys() - parameters
    for part in PARTS:
        if any(name.startswith(f"{part}.") for name in names):
            names.update(name for name in buffers if name.startswith(f"{part}."))
    return names


def lineage(recipe: Recipe, stage: str) -> list[str]:
    """Return the stages that a stage builds on, the first one first, and the stage itself."""
    found = [stage]
    while (before := recipe.start_of(found[0])) is not None:
        found.insert(0, before)
    return found


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters (a tied one once) and persistent buffers by name."""
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state = model.state_dict(keep_vars=True)
    return parameters | {name: tensor for name, tensor in state.items() if name not in tied}


def load_kept(
    model: nn.Module, state: Mapping[str, Tensor | StoredTensor], kept: Collection[str], *, source: str
) -> None:
    """Copy named parameters into a model, sharded or not: all of `kept` and nothing else.

    Raises:
        RunError: The names or shapes differ.
    """
    parameters = named_tensors(model)
    wrong = sorted(set(kept) ^ set(state))
    if wrong:
        raise RunError(f"{source} does not fit the recipe: it differs in {listing(wrong[:5])}")
    for name, tensor in state.items():
        if parameters[name].shape != tensor.shape:
            raise RunError(
                f"{source} does not fit the recipe: {name} is {tuple(tensor.shape)} there and "
                f"{tuple(parameters[name].shape)} in the model"
            )
        copy_into(parameters[name], tensor)


def load_trained(model: SpeechLM, recipe: Recipe, stage: str, path: Path) -> None:
    """Load what a stage of a run left, or had reached, into its model, sharded or not.

    Args:
        model: The recipe's model.
        recipe: The run's recipe.
        stage: Whose weights they are.
        path: The safetensors file, or one of the pieces of a set.

    Raises:
        RunError: The file is damaged or does not fit.
    """
    try:
        state = stored_tensors(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    load_kept(model, state, kept_names(model, recipe, stage), source=str(path))
