"""Recipes: the YAML files that put components, stages of training and evaluations together."""

from kikimimi.recipe.chosen import Chosen as Chosen, LoRA as LoRA
from kikimimi.recipe.resolve import (
    load_evaluations as load_evaluations,
    load_recipe as load_recipe,
    recipes_folder as recipes_folder,
    shipped_recipe as shipped_recipe,
)
from kikimimi.recipe.schema import (
    IMPORTED as IMPORTED,
    Batching as Batching,
    Checkpoint as Checkpoint,
    Dataset as Dataset,
    Dtypes as Dtypes,
    EarlyStop as EarlyStop,
    Evaluation as Evaluation,
    Faults as Faults,
    Gate as Gate,
    Guards as Guards,
    Mixture as Mixture,
    Optimiser as Optimiser,
    ParameterGroup as ParameterGroup,
    Recipe as Recipe,
    Schedule as Schedule,
    Share as Share,
    Stage as Stage,
    Train as Train,
    Trainer as Trainer,
    Validate as Validate,
)
from kikimimi.recipe.show import digest as digest, to_yaml as to_yaml
