"""Adapters that cannot be built as the contract says, and the check that has to notice."""

from __future__ import annotations

import random
import socket
from typing import Any

import pytest
import torch
from torch import nn

from kikimimi import AdapterContext
from kikimimi.testing import build_checks, list_checks
from kikimimi.testing.checks import FOR_ALL
from kikimimi_adapters.mlp import MLPAdapter


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


class ForeignBlock(MLPAdapter):
    def shard_classes(self) -> set[type[nn.Module]]:
        return {nn.TransformerEncoderLayer}


class NoBlock(MLPAdapter):
    def shard_classes(self) -> set[type[nn.Module]]:
        return set()


BROKEN = [
    (Huge, "builds_tiny", r"expected fewer than 1,000,000 parameters, found \d"),
    (Downloads, "builds_without_network", r"expected that building opens no connection, found one to"),
    (PinnedToCPU, "builds_on_meta", r"offset: expected the meta device when built there, found cpu"),
    (
        OwnDice,
        "builds_the_same_from_a_seed",
        r"equal weights from equal torch seeds, found others in offset",
    ),
    (ForeignBlock, "shard_classes_are_modules", r"found TransformerEncoderLayer; it has GELU, Linear, MLP"),
    (NoBlock, "shard_classes_are_modules", r"expected at least one class, found none"),
]


@pytest.mark.parametrize(("component", "name", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_is_caught(component: type, name: str, message: str) -> None:
    check = next(check for check in list_checks("adapter", component) if check.name == name)
    with pytest.raises(AssertionError, match=message):
        check()


def test_every_check_of_building_has_something_to_catch() -> None:
    names = {check.__name__ for check in FOR_ALL if check.__module__ == build_checks.__name__}
    assert {name for _, name, _ in BROKEN} == names
