from __future__ import annotations

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kikimimi.data.plan import Plan, Planned, Source

_costs = st.lists(st.floats(0.0625, 30, width=32), min_size=1, max_size=700)
_sources = st.lists(_costs, min_size=1, max_size=3)


def _source(name: str, costs: list[float], weight: float | None = None) -> Source:
    return Source(name, np.array(costs, dtype=np.float32), weight)


def _plan(
    costs: list[list[float]], weights: list[float] | None = None, *, budget: float = 60, seed: int = 0
) -> Plan:
    sources = [_source(f"s{i}", c, weights[i] if weights else None) for i, c in enumerate(costs)]
    return Plan(sources, batch_seconds=budget, seed=seed)


def _flat(batches: list[list[Planned]]) -> list[Planned]:
    return [planned for batch in batches for planned in batch]


@settings(max_examples=40, deadline=None)
@given(_sources, st.integers(0, 2**40), st.integers(0, 3), st.floats(30, 200))
def test_without_weights_every_record_comes_once_per_epoch(
    costs: list[list[float]], seed: int, epoch: int, budget: float
) -> None:
    batches = _plan(costs, budget=budget, seed=seed).epoch(epoch)
    expected = {Planned(i, row, epoch) for i, c in enumerate(costs) for row in range(len(c))}
    assert Counter(_flat(batches)) == Counter(expected)
    for batch in batches:
        assert batch
        assert sum(np.float64(np.float32(costs[p.source][p.row])) for p in batch) <= budget + 1e-5 * (
            1 + len(batch)
        )


@settings(max_examples=40, deadline=None)
@given(_sources, st.data(), st.integers(0, 2**40))
def test_with_weights_no_record_is_lost_or_repeated_inside_a_pass(
    costs: list[list[float]], data: st.DataObject, seed: int
) -> None:
    weights = [data.draw(st.floats(1, 5)) for _ in costs]
    total = sum(map(len, costs))
    assume(all(total * weight / sum(weights) >= 1 for weight in weights))
    plan = _plan(costs, weights, seed=seed)
    epochs = [_flat(plan.epoch(number)) for number in range(4)]
    for planned in epochs:
        assert len(planned) == total
        for i, weight in enumerate(weights):
            share = total * weight / sum(weights)
            assert abs(sum(p.source == i for p in planned) - share) < 1
    seen = Counter(itertools.chain(*epochs))
    assert max(seen.values()) == 1
    for i, c in enumerate(costs):
        passes = Counter(p.epoch for p in seen if p.source == i)
        assert sorted(passes) == list(range(len(passes)))
        assert all(passes[number] == len(c) for number in range(max(passes)))


@settings(max_examples=40, deadline=None)
@given(_sources, st.integers(0, 1000), st.integers(0, 60), st.booleans())
def test_seeking_equals_iterating(costs: list[list[float]], seed: int, start: int, weighted: bool) -> None:
    weights = [1.0] * len(costs) if weighted and min(map(len, costs)) * 3 > max(map(len, costs)) else None
    whole = list(itertools.islice(_plan(costs, weights, seed=seed).micro_batches(0), start + 20))
    sought = list(itertools.islice(_plan(costs, weights, seed=seed).micro_batches(start), 20))
    assert sought == whole[start:]
    plan = _plan(costs, weights, seed=seed)
    by_epoch = itertools.chain.from_iterable(plan.epoch(number) for number in itertools.count())
    assert whole == list(itertools.islice(by_epoch, start + 20))


def test_order_is_what_it_was() -> None:
    """The order is part of what a checkpoint relies on: a change here makes old runs unresumable."""
    plan = _plan([[1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0]], budget=10, seed=3)
    order = [[(p.source, p.row) for p in batch] for batch in plan.epoch(1)]
    assert order == [[(0, 4)], [(1, 0)], [(1, 1)], [(0, 0), (0, 1), (0, 2), (0, 3)]]
    weighted = _plan([[1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0]], [1, 3], budget=10, seed=3)
    assert [[tuple(p) for p in batch] for batch in weighted.epoch(1)] == [
        [(1, 0, 3)],
        [(1, 1, 2)],
        [(1, 1, 3)],
        [(1, 0, 4)],
        [(1, 1, 4)],
        [(0, 1, 0), (0, 3, 0)],
    ]


def test_seeds_and_epochs_differ() -> None:
    costs = [list(np.linspace(1, 20, 300))]
    assert _plan(costs, seed=0).epoch(0) != _plan(costs, seed=1).epoch(0)
    first, second = (_plan(costs).epoch(number) for number in (0, 1))
    assert [[p.row for p in b] for b in first] != [[p.row for p in b] for b in second]
    assert pickle.loads(pickle.dumps(_plan(costs))).epoch(1) == second


def test_micro_batches_are_even_and_full() -> None:
    rng = np.random.default_rng(0)
    costs = rng.uniform(1, 15, 5000).astype(np.float32)
    plan = Plan([Source("s", costs)], batch_seconds=120, seed=0)
    batches = [costs[[p.row for p in batch]] for batch in plan.epoch(0)]
    padding = sum(batch.max() * len(batch) - batch.sum() for batch in batches) / costs.sum()
    assert padding < 0.05  # 0.9 when records of any length stand together
    assert costs.sum() / (120 * len(batches)) > 0.93
    means = np.array([batch.mean() for batch in batches])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.15


def test_a_source_with_weights_restarts_when_it_is_exhausted() -> None:
    plan = _plan([[1.0] * 90, [1.0] * 10], [1, 1])
    small = [p for p in _flat(plan.epoch(0)) if p.source == 1]
    assert Counter(p.epoch for p in small) == dict.fromkeys(range(5), 10)
    later = [p for p in _flat(plan.epoch(1)) if p.source == 1]
    assert sorted({p.epoch for p in later}) == [5, 6, 7, 8, 9]
    large = Counter(p.row for n in (0, 1) for p in _flat(plan.epoch(n)) if p.source == 0)
    assert len(large) == 90


@pytest.mark.parametrize(
    ("sources", "budget", "message"),
    [
        ([], 10, "the plan has no source"),
        ([_source("a", [])], 10, "source 'a' has no records"),
        (
            [_source("a", [1, 31.5, 40.25])],
            30,
            r"source 'a': 2 of 3 records cost more .* \(30 s\); .* record 2 with 40\.25",
        ),
        ([_source("a", [1, 0])], 10, "source 'a': record 1 costs 0 s; every record must cost at least"),
        ([_source("a", [1, float("nan")])], 10, "record 1 costs nan s"),
        ([_source("a", [1, -2])], 10, "record 1 costs -2 s"),
        (
            [_source("a", [1], 1.0), _source("b", [1])],
            10,
            "either every source has a weight or none has; .* 'b'",
        ),
        ([_source("a", [1], 1.0), _source("b", [1], 0.0)], 10, "weights must be above 0, not 1, 0"),
        (
            [_source("a", [1], 1.0), _source("b", [1], 1e-9)],
            10,
            r"weight 1e-09 of source 'b' gives it none of the 2",
        ),
        ([_source("a", [1])], 0, "batch_seconds must be above 0, not 0"),
        ([_source("a", [1])], float("inf"), "batch_seconds must be above 0, not inf"),
    ],
)
def test_refuses(sources: list[Source], budget: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(sources, batch_seconds=budget, seed=0)


def test_refuses_negative_numbers() -> None:
    with pytest.raises(ValueError, match="seed must be 0 or more, not -1"):
        _plan([[1.0]], seed=-1)
    with pytest.raises(ValueError, match="start must be 0 or more, not -1"):
        next(_plan([[1.0]]).micro_batches(-1))


def test_a_record_may_fill_the_budget_exactly() -> None:
    assert _plan([[0.1, 0.1, 0.1]], budget=0.1).epoch(0).__len__() == 3
