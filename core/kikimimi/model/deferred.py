"""Parts that are built without memory, for a model that no process is to hold whole.

Such a part is assembled with its parameters on the meta device, sharded, and filled afterwards: each rank
reads the rows that it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from kikimimi.model.speech_lm import SpeechLM


@contextmanager
def without_memory() -> Iterator[None]:
    """Put parameters on the meta device as modules register them; buffers, which are computed, stay real.

    A parameter that is there already is left as it is: what is tied stays so.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    with patch.object(nn.Module, "register_parameter", register_on_meta):
        yield


@contextmanager
def standing_in(component: nn.Module) -> Iterator[None]:
    """Give linear layers on the meta device weights of no size to speak of, which low-rank updates can join.

    peft puts an update where the layer's weight is, and would throw away the numbers that it drew for it.
    """
    held = [
        (module, module.weight)
        for module in component.modules()
        if isinstance(module, nn.Linear) and module.weight.is_meta
    ]
    for module, weight in held:
        one = torch.zeros((), dtype=weight.dtype)
        module.weight = nn.Parameter(one.expand(weight.shape), requires_grad=weight.requires_grad)
    try:
        yield
    finally:
        for module, weight in held:
            module.weight = weight


def load_deferred(model: SpeechLM) -> None:
    """Fill the parts that were built without memory, once they have some.

    Raises:
        WeightsError: Weights are missing or do not fit.
    """
    for name in sorted(model.deferred):
        part = getattr(model, name)
        with _without_updates(part):
            part.load_weights()


@contextmanager
def _without_updates(part: nn.Module) -> Iterator[None]:
    """Put the layers that low-rank updates are beside back in their places: names are those of the source."""
    held: list[tuple[nn.Module, str, Any]] = [
        (module, name, child)
        for module in part.modules()
        for name, child in module.named_children()
        if isinstance(child, LoraLayer)
    ]
    for module, name, child in held:
        setattr(module, name, child.base_layer)
    try:
        yield
    finally:
        for module, name, child in held:
            setattr(module, name, child)
