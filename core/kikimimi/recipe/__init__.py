"""Recipes: the YAML files that put components, stages of training and evaluations together."""

from __future__ import annotations

from kikimimi.recipe.resolve import load_recipe
from kikimimi.recipe.schema import (
    Batch,
    Checkpoint,
    Chosen,
    Dataset,
    Dtypes,
    EarlyStop,
    Evaluation,
    Faults,
    Gate,
    LoRA,
    Mixture,
    Optimiser,
    Recipe,
    Schedule,
    Stage,
    Train,
    Trainer,
    Validate,
)

__all__ = [
    "Batch",
    "Checkpoint",
    "Chosen",
    "Dataset",
    "Dtypes",
    "EarlyStop",
    "Evaluation",
    "Faults",
    "Gate",
    "LoRA",
    "Mixture",
    "Optimiser",
    "Recipe",
    "Schedule",
    "Stage",
    "Train",
    "Trainer",
    "Validate",
    "load_recipe",
]
