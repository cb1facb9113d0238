"""The optimiser of a stage: which parameters take which rate, and which of them decay."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from kikimimi.model.trainable import undecayed_names
from kikimimi.recipe import Stage
from kikimimi.recipe.chosen import PartName


def make_optimiser(model: nn.Module, stage: Stage, trained: Mapping[str, Sequence[str]]) -> torch.optim.AdamW:
    """Return AdamW with a group for each component, or group of a component, and one more of the same name
    for those of its parameters that weight decay leaves out.

    Args:
        model: Whose parameters are trained; their shapes alone count.
        stage: The stage's options.
        trained: Parameter names by component, or by ``component.group``.
    """
    parameters, undecayed = dict(model.named_parameters()), undecayed_names(model)
    groups: list[dict[str, Any]] = []
    for key, names in trained.items():
        lr, decay = _rates(stage, key)
        apart = set[str]() if stage.optimiser.decay_norm_and_bias or not decay else undecayed
        for weight_decay, chosen in (
            (decay, [name for name in names if name not in apart]),
            (0.0, [name for name in names if name in apart]),
        ):
            if chosen:
                params = [parameters[name] for name in chosen]
                groups.append({"name": key, "params": params, "lr": lr, "weight_decay": weight_decay})
    settings = stage.optimiser
    return torch.optim.AdamW(groups, betas=(settings.beta1, settings.beta2), eps=settings.epsilon)


def _rates(stage: Stage, key: str) -> tuple[float, float]:
    """Return learning rate and weight decay of a component, or of a ``component.group``."""
    part, _, name = key.partition(".")
    whole = stage.train[cast(PartName, part)]
    if not name:
        return whole.lr, whole.weight_decay
    group = whole.groups[name]
    return (
        whole.lr if group.lr is None else group.lr,
        whole.weight_decay if group.weight_decay is None else group.weight_decay,
    )
