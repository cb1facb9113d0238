"""Adapters that cannot be built as the contract says, and the check that has to notice."""

from __future__ import annotations

import random
import socket
from typing import Any

import pytest
import torch
from torch import nn

from kikimimi import AdapterContext
from kikimimi.testing import list_checks
from kikimimi.testing.checks import FOR_ALL, kind_of_component
from kikimimi_adapters.mlp import MLPAdapter
from kikimimi_encoders.whisper.whisper import WhisperEncoder


class Huge(MLPAdapter):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.more = nn.Linear(1000, 1000)


class Downloads(MLPAdapter):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        socket.create_connection(("example.org", 443))


class PinnedToCPU(MLPAdapter):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.offset = nn.Parameter(torch.zeros(3, device="cpu"))


class OwnDice(MLPAdapter):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.offset = nn.Parameter(torch.tensor(random.SystemRandom().random()))


class OwnSeed(MLPAdapter):
    def __init__(self, config: Any, context: Any) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(42)
            super().__init__(config, context)


class ForeignBlock(MLPAdapter):
    def shard_classes(self) -> set[type[nn.Module]]:
        return {nn.TransformerEncoderLayer}


class NoBlock(MLPAdapter):
    def shard_classes(self) -> set[type[nn.Module]]:
        return set()


class ClaimsNewWeights(MLPAdapter):
    def pretrained_names(self) -> set[str]:
        return {"mlp.0.weight"}


class ClaimsStrangeNames(WhisperEncoder):
    def pretrained_names(self) -> set[str]:
        return {"conv1.weight"} if self.config.weights != "random" else set()


class LeavesMemoryAsItWas(MLPAdapter):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.offset = nn.Parameter(torch.empty(3))


class DrawsAgain(MLPAdapter):
    def load_weights(self) -> None:
        nn.init.normal_(self.get_parameter("mlp.0.weight"))


class ChangesItsOptions(MLPAdapter):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        object.__setattr__(config, "downsample", config.downsample + 1)
        super().__init__(config, context)


BROKEN = [
    (
        LeavesMemoryAsItWas,
        "builds_the_same_from_a_seed",
        r"found memory as it was \(`torch\.empty`\) in offset",
    ),
    (
        DrawsAgain,
        "builds_without_network",
        r"random weights left as they are, found others in mlp\.0\.weight",
    ),
    (ChangesItsOptions, "builds_tiny", r"expected the config left as it was, .*downsample=4"),
    (Huge, "builds_tiny", r"expected fewer than 1,000,000 parameters, found \d"),
    (Downloads, "builds_without_network", r"expected that building opens no connection, found one to"),
    (PinnedToCPU, "builds_on_meta", r"offset: expected the meta device when built there, found cpu"),
    (
        OwnDice,
        "builds_the_same_from_a_seed",
        r"equal weights from equal torch seeds, found others in offset",
    ),
    (OwnSeed, "builds_another_from_another_seed", r"expected other weights from another torch seed"),
    (ForeignBlock, "shard_classes_are_modules", r"found TransformerEncoderLayer; it has GELU, Linear, MLP"),
    (ClaimsNewWeights, "pretrained_names_are_parameters", r"none with random weights, found mlp.0.weight"),
    (
        ClaimsStrangeNames,
        "pretrained_names_are_parameters",
        r"expected names of parameters, found conv1.weig",
    ),
    (NoBlock, "shard_classes_are_modules", r"expected at least one class, found none"),
]


@pytest.mark.parametrize(("component", "name", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_is_caught(component: type, name: str, message: str) -> None:
    check = next(
        check for check in list_checks(kind_of_component(component), component) if check.name == name
    )
    with pytest.raises(AssertionError, match=message):
        check()


def test_every_check_of_building_has_something_to_catch() -> None:
    of_building = ("builds_", "shard_classes_", "pretrained_names_")
    names = {check.__name__ for check in FOR_ALL if check.__name__.startswith(of_building)}
    assert {name for _, name, _ in BROKEN} == names
