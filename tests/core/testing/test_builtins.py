"""Every registered component that has a contract keeps it, in each of its forms."""

from __future__ import annotations

from typing import Any

import pytest

from kikimimi.contracts import registry
from kikimimi.testing import Check, list_checks, parametrize_checks
from kikimimi_adapters.mlp import MLPAdapter
from kikimimi_llms.decoder import Llama
from kikimimi_llms.scratch import Scratch


def _all_checks() -> list[Any]:
    return [
        pytest.param(check, id=f"{kind}-{name}-{check.name}")
        for kind in registry.KINDS
        for name in registry.names(kind)
        for check in list_checks(kind, registry.load(kind, name))
    ]


@pytest.mark.parametrize("check", _all_checks())
def test_contract(check: Check) -> None:
    check()


@parametrize_checks(
    MLPAdapter,
    mean=MLPAdapter.Config(pool="mean", downsample=3, activation="relu", bias=True),
    one_layer=MLPAdapter.Config(num_layers=1, downsample=1),
    three_layers=MLPAdapter.Config(num_layers=3, activation="silu"),
)
def test_contract_of_mlp(check: Check) -> None:
    check()


@parametrize_checks(
    Llama, grouped=Llama.Config(scratch=Scratch(num_kv_heads=1, tie_embeddings=False, dropout=0.1))
)
def test_contract_of_llama(check: Check) -> None:
    check()
