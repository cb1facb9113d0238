"""Adapters that compute in one wrong way or place each, and the check that has to notice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kikimimi import AdapterContext, AdapterOutput, Padded
from kikimimi.testing import list_checks, number_checks
from kikimimi.testing.checks import FOR_ALL, FOR_PADDED

from .test_broken_adapters import Pairs


class Filtered(Pairs):
    """Frames through a filter and a linear layer: an adapter that keeps the contract."""

    def max_tokens(self, num_frames: int) -> int:
        return num_frames

    def frames(self, values: Tensor) -> Tensor:
        return values * torch.linspace(0.1, 1.0, 32, device=values.device).to(values.dtype)

    def forward(self, features: Padded) -> AdapterOutput:
        clean = features.values.masked_fill(~features.mask()[..., None], 0.0)
        return AdapterOutput(Padded(self.linear(self.frames(clean)), features.lengths))


class RoundsItsFilter(Filtered):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.register_buffer("filter", torch.linspace(0.1, 1.0, 32), persistent=False)

    def frames(self, values: Tensor) -> Tensor:
        return values * self.filter  # type: ignore[operator]


class HoldsItsFilter(Filtered):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.filters = [torch.linspace(0.1, 1.0, 32)]

    def frames(self, values: Tensor) -> Tensor:
        return values * self.filters[0].to(values)


class KeepsItsOutput(Filtered):
    def frames(self, values: Tensor) -> Tensor:
        self.last = {"values": values}
        return super().frames(values)


class MakesOnTheCPU(Filtered):
    def frames(self, values: Tensor) -> Tensor:
        return values + torch.linspace(0.1, 1.0, 32, dtype=values.dtype)


class MasksWithALowValue(Filtered):
    def frames(self, values: Tensor) -> Tensor:
        scores = self.linear(values)[..., :4]
        hidden = scores.masked_fill(scores > scores.max(-1, keepdim=True)[0], -1e9)
        weight: Tensor = hidden.softmax(-1).sum(-1, keepdim=True)
        return values * weight


class OverflowsInHalf(Filtered):
    def frames(self, values: Tensor) -> Tensor:
        large = nn.functional.linear(values, self.linear.weight * 1e6)
        return values * (large / large.abs().clamp(min=1.0)).mean(-1, keepdim=True)


class Standardises(Filtered):
    def frames(self, values: Tensor) -> Tensor:
        return (values - values.mean(-1, keepdim=True)) / values.std(-1, keepdim=True)


class RootOfZero(Filtered):
    def frames(self, values: Tensor) -> Tensor:
        length: Tensor = self.linear(values).sub(self.linear.bias).square().sum(-1, keepdim=True).sqrt()
        return super().frames(values) * length


IN_TEST_BROKEN_ADAPTERS = {"bf16_runs", "dtype_and_device_are_kept"}

BROKEN = [
    (OverflowsInHalf, "fp16_runs", r"sequence 0 under autocast to float16: expected finite"),
    (MasksWithALowValue, "fp16_runs", r"without overflow"),
    (RoundsItsFilter, "buffers_survive_half_precision", r"weights restored: sequence 0: expected the same"),
    (HoldsItsFilter, "tensors_are_registered", r"once it is built: .* found others in filters\[0\]"),
    (KeepsItsOutput, "tensors_are_registered", r"run in train mode: .* found others in last\['values'\]"),
    (MakesOnTheCPU, "runs_where_its_weights_are", r"found one on the CPU"),
    (Standardises, "flat_input_is_finite", r"zeros: sequence 0: expected finite"),
    (RootOfZero, "flat_input_is_finite", r"gradient of linear.weight for a batch of zeros: expected finite"),
]


def test_a_sound_adapter_passes() -> None:
    for check in list_checks("adapter", Filtered):
        if check.name != "import_is_quiet":  # test_import_check.py
            check()


@pytest.mark.parametrize(("component", "name", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_is_caught(component: type, name: str, message: str) -> None:
    check = next(check for check in list_checks("adapter", component) if check.name == name)
    with pytest.raises(Exception, match=message):
        check()
    assert check.result().error is not None


def test_every_check_of_numbers_has_something_to_catch() -> None:
    names = {
        check.__name__ for check in (*FOR_ALL, *FOR_PADDED) if check.__module__ == number_checks.__name__
    }
    assert {name for _, name, _ in BROKEN} == names - IN_TEST_BROKEN_ADAPTERS
