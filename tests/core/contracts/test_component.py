from __future__ import annotations

import runpy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from kikimimi import Adapter, AdapterContext, AdapterOutput, ComponentConfig, Padded
from kikimimi.contracts import component as contracts
from kikimimi.testing import list_checks


class Scaled(nn.Module):
    """A layer with a parameter of its own."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.scale


def zeroed(features: Padded) -> torch.Tensor:
    return features.values.masked_fill(~features.mask()[..., None], 0.0)


class Bare(Adapter):
    """Writes none of the duties that have a default."""

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """None."""

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.proj = nn.Linear(context.in_dim, context.out_dim)

    def max_tokens(self, num_frames: int) -> int:
        return num_frames

    def forward(self, features: Padded) -> AdapterOutput:
        return AdapterOutput(Padded(self.proj(zeroed(features)), features.lengths))


class Deep(Bare):
    """Keeps layers in a list, and others that hold no parameter or cannot be called."""

    def __init__(self, config: Bare.Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.layers = nn.ModuleList([nn.ModuleList([Scaled(3)]), nn.Sequential(nn.Linear(3, 3))])
        self.drop = nn.Dropout(0.1)
        self.free = nn.ParameterList([torch.zeros(3)])


class Alone(Bare):
    """Holds all of its parameters itself: the whole of it is one piece."""

    def __init__(self, config: Bare.Config, context: AdapterContext) -> None:
        Adapter.__init__(self, config, context)
        self.weight = nn.Parameter(torch.randn(context.in_dim, context.out_dim) / 8)

    def forward(self, features: Padded) -> AdapterOutput:
        return AdapterOutput(Padded(zeroed(features) @ self.weight, features.lengths))


CONTEXT = AdapterContext(in_dim=4, out_dim=5, frame_rate=50.0)


def test_a_config_that_has_nothing_to_make_smaller_is_tiny() -> None:
    assert Bare.tiny_config() == Bare.Config()
    config = Bare.Config()
    assert Bare.tiny_config(config) is config


def test_blocks_are_the_children_that_hold_parameters() -> None:
    assert Bare(Bare.Config(), CONTEXT).shard_classes() == {nn.Linear}
    assert Deep(Bare.Config(), CONTEXT).shard_classes() == {nn.Linear, Scaled, nn.Sequential}
    assert Alone(Bare.Config(), CONTEXT).shard_classes() == set()


def test_a_component_without_these_duties_passes() -> None:
    for component in (Bare, Alone):
        for check in list_checks("adapter", component):
            if check.name != "import_is_quiet":  # this file's
                check()


def test_the_meta_device_acts_on_every_function_whatever_is_loaded_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While transformers reads a model, `torch.linspace` is another function."""
    torch.utils._device._device_constructors.cache_clear()
    assert contracts.__file__
    runpy.run_path(contracts.__file__)
    with monkeypatch.context() as patch, torch.device("meta"):
        patch.setattr(torch, "linspace", lambda *_: None)
        torch.empty(0)
    with torch.device("meta"):
        assert torch.linspace(0, 1, 3).is_meta
