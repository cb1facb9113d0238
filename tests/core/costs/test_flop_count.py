"""What is remembered of a call gives what the call would."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kikimimi.costs import flop_count as module
from kikimimi.costs.flop_count import FlopCount


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COUNTED", {})


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_a_call_counts_each_time_and_gives_a_tensor_of_its_own() -> None:
    with FlopCount() as count:
        outs = [meta(3, 5) @ meta(5, 7) for _ in range(3)]
    assert count.flops == 3 * 2 * 3 * 5 * 7
    assert len({out.untyped_storage()._cdata for out in outs}) == 3
    assert {(out.shape, out.stride(), out.dtype) for out in outs} == {(outs[0].shape, (7, 1), torch.float32)}


def test_calls_differ_by_shape_stride_type_and_argument() -> None:
    with FlopCount():
        for _ in range(2):
            assert (meta(3, 5) + 1).shape == (3, 5)
            assert (meta(5, 3).T + 1).stride() == (1, 3)
            assert (meta(3, 5, dtype=torch.bfloat16) + 1).dtype == torch.bfloat16
            assert (meta(3, 5, dtype=torch.int64) + 1).dtype == torch.int64
            assert (meta(3, 5, dtype=torch.int64) + 1.0).dtype == torch.float32
            values, places = meta(3, 5).max(dim=1)
            assert (values.dtype, places.dtype, places.shape) == (torch.float32, torch.int64, (3,))


def test_views_stay_views_and_values_are_looked_at() -> None:
    whole = meta(4, 6)
    with FlopCount():
        for _ in range(2):
            assert whole[1:].untyped_storage()._cdata == whole.untyped_storage()._cdata
            assert whole.add_(1) is whole
        assert [torch.arange(n).sum().item() for n in (3, 3, 4)] == [3, 3, 6]
        assert [torch.tensor(values).sum().item() for values in ([1, 2], [3, 4])] == [3, 7]


def test_gradients_are_counted_again_too() -> None:
    with FlopCount() as count:
        for _ in range(2):
            weight = meta(5, 7).requires_grad_()
            (meta(3, 5) @ weight).sum().backward()  # type: ignore[no-untyped-call]
            assert weight.grad is not None
            assert weight.grad.shape == (5, 7)
    assert count.flops == 2 * 2 * (2 * 3 * 5 * 7)
