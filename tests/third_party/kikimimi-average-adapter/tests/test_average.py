from __future__ import annotations

import pytest
import torch
from kikimimi_average_adapter import AverageAdapter

from kikimimi import AdapterContext, Padded
from kikimimi.testing import Check, parametrize_checks


@parametrize_checks(AverageAdapter, four=AverageAdapter.Config(), one=AverageAdapter.Config(downsample=1))
def test_contract(check: Check) -> None:
    check()


def test_a_short_last_group_is_averaged_among_itself() -> None:
    adapter = AverageAdapter(
        AverageAdapter.Config(downsample=4), AdapterContext(in_dim=8, out_dim=6, frame_rate=50.0)
    )
    frames = torch.randn(5, 8)
    tokens = adapter(Padded.stack([frames])).tokens
    assert tokens.lengths.tolist() == [2]
    torch.testing.assert_close(tokens.values[0, 1], adapter.projection(frames[4]))


def test_downsample_is_positive() -> None:
    with pytest.raises(ValueError, match="downsample must be at least 1, not 0"):
        AverageAdapter.Config(downsample=0)
