from __future__ import annotations

import pytest
import torch

from kikimimi import Taps, check_taps, tiny_layers


def test_the_last_layer_is_the_default() -> None:
    taps = Taps(None, "concat", 6)
    assert (taps.layers, taps.num_taps, list(taps.parameters())) == ([6], 1, [])
    output = torch.randn(2, 3, 4)
    assert taps([output]) is output


def test_several_stand_side_by_side() -> None:
    taps = Taps([0, 2], "concat", 3)
    first, second = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    together = taps([first, second])
    assert taps.num_taps == 2
    assert torch.equal(together.unflatten(-1, (2, -1))[..., 1, :], second)


def test_a_weighted_sum_starts_as_the_mean_and_learns() -> None:
    taps = Taps([1, 2], "weighted_sum", 2)
    assert taps.num_taps == 1
    assert taps.weight is not None
    first, second = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(taps([first, second]), (first + second) / 2)
    with torch.no_grad():
        taps.weight.copy_(torch.tensor([0.0, 3.0]).log_softmax(0))
    shares = torch.tensor([0.0, 3.0]).softmax(0)
    torch.testing.assert_close(taps([first, second]), shares[0] * first + shares[1] * second)
    taps([first, second]).sum().backward()
    assert taps.weight.grad is not None
    assert taps([first.bfloat16(), second.bfloat16()]).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("layers", "combine", "message"),
    [
        ([], "concat", "layers must name at least one layer"),
        ([2, 1], "concat", "in ascending order, each once"),
        ([1, 1], "concat", "in ascending order, each once"),
        ([-1], "concat", "from 0"),
        ([1], "weighted_sum", "combine is read only with two or more layers"),
        (None, "weighted_sum", "combine is read only with two or more layers"),
        ([1, 2], "mean", "combine must be concat or weighted_sum, not 'mean'"),
    ],
)
def test_wrong_options(layers: list[int] | None, combine: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_taps(layers, combine)


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="layers names layer 13, and the encoder has 12"):
        Taps([13], "concat", 12)


def test_tiny_layers_keep_the_number_where_they_can() -> None:
    assert tiny_layers(None, 2) is None
    assert tiny_layers([9], 2) == [2]
    assert tiny_layers([2, 5, 8, 11], 4) == [1, 2, 3, 4]
    assert tiny_layers(list(range(1, 33)), 2) == [0, 1, 2]
    assert tiny_layers([0, 1], 2) == [0, 1]
