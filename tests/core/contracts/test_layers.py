from __future__ import annotations

from typing import Any

import pytest
import torch

from kikimimi import LayerCombiner, check_layers, tiny_layers


def test_the_last_layer_is_the_default() -> None:
    combiner = LayerCombiner(None, "concat", 6)
    assert (combiner.layers, combiner.num_concat_layers, list(combiner.parameters())) == ([6], 1, [])
    output = torch.randn(2, 3, 4)
    assert combiner([output]) is output


def test_several_stand_side_by_side() -> None:
    combiner = LayerCombiner([0, 2], "concat", 3)
    first, second = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    together = combiner([first, second])
    assert combiner.num_concat_layers == 2
    assert torch.equal(together.unflatten(-1, (2, -1))[..., 1, :], second)


def test_a_weighted_sum_starts_as_the_mean_and_learns() -> None:
    combiner = LayerCombiner([1, 2], "weighted_sum", 2)
    assert combiner.num_concat_layers == 1
    assert combiner.weight is not None
    first, second = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(combiner([first, second]), (first + second) / 2)
    with torch.no_grad():
        combiner.weight.copy_(torch.tensor([0.0, 3.0]).log_softmax(0))
    shares = torch.tensor([0.0, 3.0]).softmax(0)
    torch.testing.assert_close(combiner([first, second]), shares[0] * first + shares[1] * second)
    combiner([first, second]).sum().backward()
    assert combiner.weight.grad is not None
    assert combiner([first.bfloat16(), second.bfloat16()]).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("layers", "combine", "message"),
    [
        ([], "concat", "layers: must not be empty"),
        ([2, 1], "concat", r"layers: must be .*ascending, each once, not \[2, 1\]"),
        ([1, 1], "concat", "ascending, each once"),
        ([-1], "concat", r"layers\[0\]: must be at least 0, not -1"),
        ([1], "weighted_sum", "combine is read only with two or more layers"),
        (None, "weighted_sum", "combine is read only with two or more layers"),
        ([1, 2], "mean", "combine: 'mean' is not one of concat, weighted_sum"),
    ],
)
def test_wrong_options(layers: list[int] | None, combine: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_layers(layers, combine)


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="layers names layer 13, and the encoder has 12"):
        LayerCombiner([13], "concat", 12)


def test_tiny_layers_keep_the_number_where_they_can() -> None:
    assert tiny_layers(None, 2) is None
    assert tiny_layers([9], 2) == [2]
    assert tiny_layers([2, 5, 8, 11], 4) == [1, 2, 3, 4]
    assert tiny_layers(list(range(1, 33)), 2) == [0, 1, 2]
    assert tiny_layers([0, 1], 2) == [0, 1]
