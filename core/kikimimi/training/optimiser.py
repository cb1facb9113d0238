"""The optimiser of a stage."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from kikimimi.recipe import Stage
from kikimimi.recipe.chosen import PartName


def make_optimiser(model: nn.Module, stage: Stage, trained: Mapping[str, Sequence[str]]) -> torch.optim.AdamW:
    """Return AdamW with one group per component, or group of a component.

    Args:
        model: The stage's; of its parameters, shapes alone count.
        stage: The stage's options.
        trained: Parameter names by component, or by ``component.group``.
    """
    parameters = dict(model.named_parameters())
    groups = []
    for key, names in trained.items():
        part, _, group = key.partition(".")
        whole = stage.train[cast(PartName, part)]
        train = whole.groups[group] if group else whole
        groups.append(
            {
                "name": key,
                "params": [parameters[name] for name in names],
                "lr": train.lr,
                "weight_decay": train.weight_decay,
            }
        )
    settings = stage.optimiser
    return torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), eps=settings.epsilon)
