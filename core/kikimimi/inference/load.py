"""From a run to its model."""

from pathlib import Path

import torch

from kikimimi.contracts.generation import Generation
from kikimimi.files.hashes import UNVERIFIED
from kikimimi.inference.engine import Engine
from kikimimi.model.assembly import assemble
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import load_trained
from kikimimi.run.folder import RunFolder
from kikimimi.run.made_with import tell_difference


def load_model(run: RunFolder, stage: str | None = None, weights: Path | None = None) -> SpeechLM:
    """Assemble a run's model with its newest trained weights, in eval mode and frozen.

    Args:
        run: A trained run.
        stage: Stage whose weights it gets, as that left or has reached them; None is the last that has any.
        weights: File of them; None is the stage's newest.

    Raises:
        RunError: Nothing was trained yet.
        DamagedError: The run's assets or weights are damaged.
    """
    name, newest = run.newest_weights(stage)
    model = assemble(run.recipe.at(name), assets=run.assets)
    file = weights or newest
    if not load_trained(model, run.recipe, name, file):
        tell_difference(file, UNVERIFIED)
    return model.eval().requires_grad_(False)


def load_untrained(run: RunFolder, stage: str) -> SpeechLM:
    """Assemble a run's model as its sources have it, before any training, in eval mode and frozen.

    Args:
        run: A run that has begun.
        stage: Stage whose number formats it has.

    Raises:
        DamagedError: The run's assets are damaged.
        WeightsError: Sources are missing.
    """
    return assemble(run.recipe.at(stage), assets=run.assets).eval().requires_grad_(False)


def open_engine(
    run: RunFolder, device: torch.device | None = None, stage: str | None = None
) -> tuple[Engine, Generation]:
    """Load a run's model as its first evaluation uses it.

    Args:
        run: A trained run.
        device: Where it runs; None is a GPU if there is one.
        stage: Stage whose weights it gets; None is the last that has any.

    Returns:
        The engine, and how it is to answer where nothing else is asked for.

    Raises:
        RunError: Nothing was trained yet, or there is no such stage.
    """
    recipe = run.recipe
    first = next(iter(recipe.evaluate.values()), None)
    precision = recipe.trainer.precision if first is None else recipe.precision_of(first)
    engine = Engine(load_model(run, stage), device, precision=precision, seed=recipe.seed)
    return engine, Generation() if first is None else first.generate
