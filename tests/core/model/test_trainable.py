from __future__ import annotations

import pytest
import torch
from torch import nn

from kikimimi.errors import DamagedError
from kikimimi.model.trainable import load_kept, named_tensors


class Parts(nn.Module):
    """Running statistics, a buffer that is not saved, and two names of one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.embedding = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("constant", torch.ones(2), persistent=False)


def test_tensors_are_parameters_once_and_persistent_buffers() -> None:
    assert set(named_tensors(Parts())) == {
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
        "embedding.weight",
    }


def test_running_statistics_come_back() -> None:
    trained, fresh = Parts(), Parts()
    trained.norm(torch.randn(8, 3))
    state = {name: tensor.detach() for name, tensor in named_tensors(trained).items()}
    load_kept(fresh, state, state, source="x")
    assert torch.equal(fresh.get_buffer("norm.running_mean"), trained.get_buffer("norm.running_mean"))
    assert torch.equal(fresh.head.weight, trained.embedding.weight)


def test_what_does_not_fit_is_named() -> None:
    parts = Parts()
    state = {name: tensor.detach() for name, tensor in named_tensors(parts).items()}
    less = {name: tensor for name, tensor in state.items() if name != "norm.bias"}
    with pytest.raises(DamagedError, match=r"x does not fit the recipe: it differs in norm\.bias"):
        load_kept(parts, less, state, source="x")
    state["norm.bias"] = torch.zeros(5)
    with pytest.raises(DamagedError, match=r"norm\.bias is \(5,\) there and \(3,\) in the model"):
        load_kept(parts, state, state, source="x")
