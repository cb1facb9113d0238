"""Recipes: the YAML files that put components, stages of training and evaluations together."""

from kikimimi.recipe.chosen import Chosen, LoRA
from kikimimi.recipe.resolve import load_recipe, recipes_folder, shipped_recipe
from kikimimi.recipe.schema import (
    Batching,
    Checkpoint,
    Dataset,
    Dtypes,
    EarlyStop,
    Evaluation,
    Faults,
    Gate,
    Mixture,
    Optimiser,
    ParameterGroup,
    Recipe,
    Schedule,
    Stage,
    Train,
    Trainer,
    Validate,
)
from kikimimi.recipe.show import digest, to_yaml

__all__ = [
    "Batching",
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
    "ParameterGroup",
    "Recipe",
    "Schedule",
    "Stage",
    "Train",
    "Trainer",
    "Validate",
    "digest",
    "load_recipe",
    "recipes_folder",
    "shipped_recipe",
    "to_yaml",
]
