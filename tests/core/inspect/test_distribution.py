from __future__ import annotations

import numpy as np
import pytest

from kikimimi.inspect.distribution import PERCENTILES, distribution


def test_exact_figures() -> None:
    spread = distribution(np.array([0.5, 1.0, 1.5, 2.0, 4.5], dtype=np.float32), "s")
    assert spread is not None
    assert (spread.unit, spread.count, spread.mean, spread.median) == ("s", 5, 1.9, 1.5)
    assert dict(zip(PERCENTILES, spread.percentiles, strict=True)) == pytest.approx(
        {0: 0.5, 1: 0.52, 5: 0.6, 25: 1.0, 50: 1.5, 75: 2.0, 95: 4.0, 99: 4.4, 100: 4.5}
    )
    # (4.49 - 0.5) / 23 is 0.17; the next round width is 0.2.
    assert spread.edges[:3] == (0.4, 0.6, 0.8)
    assert spread.edges[-1] == 4.6
    assert not spread.beyond
    assert sum(spread.counts) == 5
    assert [spread.label(n) for n, count in enumerate(spread.counts) if count] == [
        "0.4 - 0.6",
        "1 - 1.2",
        "1.4 - 1.6",
        "2 - 2.2",
        "4.4 - 4.6",
    ]


def test_a_value_on_an_edge_is_in_the_bin_above() -> None:
    spread = distribution(np.arange(0, 24) / 10, "s")
    assert spread is not None
    assert spread.edges == tuple(round(n / 10, 1) for n in range(25))
    assert spread.counts == (1,) * 24


def test_the_few_that_are_far_share_a_bin() -> None:
    values = np.concatenate([np.linspace(2, 10, 995), [100.0, 200.0, 300.0, 400.0, 3600.0]])
    spread = distribution(values, "s")
    assert spread is not None
    assert spread.beyond
    assert spread.edges[-1] == 3600
    assert (spread.edges[-2], spread.counts[-1]) == (10.5, 5)
    assert spread.label(len(spread.counts) - 1) == "10.5 -"
    assert sum(spread.counts) == 1000


def test_a_cluster_of_outliers_does_not_widen_the_bins() -> None:
    spread = distribution(np.concatenate([np.linspace(6, 8, 100), np.full(5, 60.0)]), "characters/s")
    assert spread is not None
    assert spread.beyond
    assert spread.counts[-1] == 5
    assert spread.edges[1] - spread.edges[0] == 0.5


def test_whole_numbers_and_equal_ones() -> None:
    spread = distribution(np.array([1, 2, 2, 3]), "characters", whole=True)
    assert spread is not None
    assert (spread.edges, spread.counts) == ((1, 2, 3, 4), (1, 2, 1))
    for value in (0.0, 7.0, 0.25):
        equal = distribution(np.full(3, value), "s")
        assert equal is not None
        assert (equal.counts, equal.median) == ((3,), value)
        assert equal.edges[0] <= value < equal.edges[1]
    assert distribution(np.array([]), "s") is None


def test_coarser_bins_hold_the_same() -> None:
    spread = distribution(np.concatenate([np.tile(np.arange(0, 24) / 10, 100), [99.0]]), "s")
    assert spread is not None
    assert spread.beyond
    coarse = spread.coarser(5)
    assert list(coarse.edges) == [0, 0.5, 1, 1.5, 2, 2.4, 99]
    assert list(coarse.counts) == [500, 500, 500, 500, 400, 1]
    assert spread.coarser(1000) == spread
    assert coarse.percentiles == spread.percentiles
