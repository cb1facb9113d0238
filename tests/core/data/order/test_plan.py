from __future__ import annotations

import itertools
import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from kikimimi.data.order.plan import START, Plan, Planned, Position, Source, record_shares, share_begin

_costs = st.lists(st.floats(0.0625, 30, width=32), min_size=1, max_size=700)
_sources = st.lists(_costs, min_size=1, max_size=3)


def _source(name: str, costs: list[float]) -> Source:
    return Source(name, np.array(costs, dtype=np.float32))


def _plan(
    costs: list[list[float]], weights: list[float] | None = None, *, budget: float = 60, seed: int = 0
) -> Plan:
    shares = None
    if weights is not None:
        shares = record_shares(weights, [len(c) for c in costs], [sum(c) for c in costs])
    sources = [_source(f"s{i}", c) for i, c in enumerate(costs)]
    return Plan(sources, budget=budget, seed=seed, shares=shares)


def _flat(batches: list[list[Planned]]) -> list[Planned]:
    return [planned for batch in batches for planned in batch]


def _epoch(plan: Plan, number: int) -> list[list[Planned]]:
    stream = plan.micro_batches(Position(number, 0))
    return list(itertools.islice(stream, plan.num_micro_batches(number)))


@settings(max_examples=40)
@given(_sources, st.integers(0, 2**40), st.integers(0, 3), st.floats(30, 200))
def test_without_shares_every_record_comes_once_per_epoch(
    costs: list[list[float]], seed: int, epoch: int, budget: float
) -> None:
    batches = _epoch(_plan(costs, budget=budget, seed=seed), epoch)
    expected = {Planned(i, row, epoch) for i, c in enumerate(costs) for row in range(len(c))}
    assert Counter(_flat(batches)) == Counter(expected)
    for batch in batches:
        assert batch
        assert sum(np.float64(np.float32(costs[p.source][p.row])) for p in batch) <= budget + 1e-5 * (
            1 + len(batch)
        )


@settings(max_examples=40)
@given(_sources, st.data(), st.integers(0, 2**40))
def test_with_shares_no_record_is_lost_or_repeated_inside_a_pass(
    costs: list[list[float]], data: st.DataObject, seed: int
) -> None:
    weights = [data.draw(st.floats(0.001, 5)) for _ in costs]
    total = sum(map(len, costs))
    plan = _plan(costs, weights, seed=seed)
    epochs = [_flat(_epoch(plan, number)) for number in range(4)]
    for number, planned in enumerate(epochs, start=1):
        assert abs(len(planned) - total) <= len(costs)
        for i, weight in enumerate(weights):
            # Over all epochs together, however small the weight is.
            share = number * total * weight / sum(weights)
            given = sum(p.source == i for p in itertools.chain(*epochs[:number]))
            assert abs(given - share) <= 0.501
    seen = Counter(itertools.chain(*epochs))
    assert max(seen.values()) == 1
    for i, c in enumerate(costs):
        passes = Counter(p.epoch for p in seen if p.source == i)
        assert sorted(passes) == list(range(len(passes)))
        assert all(passes[number] == len(c) for number in range(max(passes, default=0)))


@settings(max_examples=40)
@given(_sources, st.integers(0, 1000), st.integers(0, 60), st.booleans())
def test_seeking_equals_iterating(costs: list[list[float]], seed: int, start: int, weighted: bool) -> None:
    weights = [1.0] * len(costs) if weighted else None
    whole = list(itertools.islice(_plan(costs, weights, seed=seed).micro_batches(), start + 20))
    position = _plan(costs, weights, seed=seed).advance(START, start)
    sought = list(itertools.islice(_plan(costs, weights, seed=seed).micro_batches(position), 20))
    assert sought == whole[start:]
    plan = _plan(costs, weights, seed=seed)
    by_epoch = itertools.chain.from_iterable(_epoch(plan, number) for number in itertools.count())
    assert whole == list(itertools.islice(by_epoch, start + 20))


@settings(max_examples=60)
@given(_sources, st.booleans(), st.data())
def test_kills_and_changes_of_world_size_lose_and_repeat_nothing(
    costs: list[list[float]], weighted: bool, data: st.DataObject
) -> None:
    """Ranks read their shares; a kill throws away what was read past the last checkpoint; others go on."""
    weights = [float(i + 1) for i in range(len(costs))] if weighted else None
    micro_batches = data.draw(st.sampled_from([4, 8, 12]))
    steps = data.draw(st.integers(1, 12))
    whole = list(itertools.islice(_plan(costs, weights).micro_batches(), steps * micro_batches))
    trained: list[list[Planned]] = []
    position, done = START, 0
    while done < steps:
        world = data.draw(st.sampled_from([w for w in (1, 2, 3, 4) if micro_batches % w == 0]))
        saved = data.draw(st.integers(1, steps - done))
        lost = data.draw(st.integers(0, 5))  # steps after the checkpoint, before the kill
        readers = [
            list(
                itertools.islice(
                    itertools.islice(_plan(costs, weights).micro_batches(position), rank, None, world),
                    (saved + lost) * micro_batches // world,
                )
            )
            for rank in range(world)
        ]
        assert len({len(reader) for reader in readers}) == 1  # no rank waits for another
        merged = list(itertools.chain.from_iterable(zip(*readers, strict=True)))
        trained += merged[: saved * micro_batches]
        position = _plan(costs, weights).advance(position, saved * micro_batches)
        done += saved
    assert trained == whole


def test_order_is_what_it_was() -> None:
    """The order is part of what a checkpoint relies on: a change here makes old runs unresumable."""
    plan = _plan([[1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0]], budget=10, seed=3)
    order = [[(p.source, p.row) for p in batch] for batch in _epoch(plan, 1)]
    assert order == [[(0, 4)], [(1, 0)], [(1, 1)], [(0, 0), (0, 1), (0, 2), (0, 3)]]
    weighted = _plan([[1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0]], [1, 3], budget=10, seed=3)
    assert [[tuple(p) for p in batch] for batch in _epoch(weighted, 1)] == [
        [(1, 1, 5)],
        [(1, 0, 3)],
        [(1, 1, 3)],
        [(1, 1, 4)],
        [(1, 0, 4)],
        [(1, 1, 2)],
        [(0, 1, 0), (0, 3, 0)],
    ]


def test_seeds_and_epochs_differ() -> None:
    costs = [list(np.linspace(1, 20, 300))]
    assert _epoch(_plan(costs, seed=0), 0) != _epoch(_plan(costs, seed=1), 0)
    first, second = (_epoch(_plan(costs), number) for number in (0, 1))
    assert [[p.row for p in b] for b in first] != [[p.row for p in b] for b in second]
    assert _epoch(pickle.loads(pickle.dumps(_plan(costs))), 1) == second


def _padding(costs: np.ndarray[tuple[int], np.dtype[np.float32]], plan: Plan) -> float:
    batches = [costs[[p.row for p in batch]] for batch in _epoch(plan, 0)]
    computed = sum(float(batch.max()) * len(batch) for batch in batches)
    return 1 - float(costs.sum(dtype=np.float64)) / computed


@pytest.mark.parametrize("budget", [60, 240, 960])
def test_little_of_a_realistic_mix_is_padding(budget: float) -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(1.9, 0.6, 20_000), 2, 30).astype(np.float32)
    plan = Plan([Source("s", lengths)], budget=budget, seed=0)
    assert _padding(lengths, plan) < 0.05
    shuffled = Plan([Source("s", lengths, lengths=np.ones_like(lengths))], budget=budget, seed=0)
    assert _padding(lengths, shuffled) > 0.4  # records of any length together
    batches = [lengths[[p.row for p in batch]] for batch in _epoch(plan, 0)]
    assert lengths.sum() / (budget * len(batches)) > 0.9
    # Random between: neither lengths nor rows drift over an epoch.
    means = np.array([batch.mean() for batch in batches])
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.15
    rows = np.array([np.mean([p.row for p in batch]) for batch in _epoch(plan, 0)])
    assert abs(np.corrcoef(np.arange(len(rows)), rows)[0, 1]) < 0.15


def test_larger_buckets_mean_less_padding() -> None:
    lengths = np.random.default_rng(0).uniform(2, 30, 30_000).astype(np.float32)
    paddings = [
        _padding(lengths, Plan([Source("s", lengths)], budget=960, seed=0, bucket=bucket))
        for bucket in (8, 16, 32, 64)
    ]
    assert paddings == sorted(paddings, reverse=True)


def test_records_stand_together_by_length_and_not_by_cost() -> None:
    costs = np.array([1, 2] * 50, dtype=np.float32)
    lengths = np.array([5] * 50 + [9] * 50, dtype=np.float32)
    plan = Plan([Source("s", costs, lengths)], budget=15, seed=0)
    kinds = [{float(lengths[p.row]) for p in batch} for batch in _epoch(plan, 0)]
    assert sum(len(kind) > 1 for kind in kinds) <= 1
    assert {1.0, 2.0} in [{float(costs[p.row]) for p in batch} for batch in _epoch(plan, 0)]


def test_only_the_rows_that_are_used() -> None:
    rows = np.array([3, 5, 11], dtype=np.int32)
    plan = Plan([Source("s", np.ones(3, dtype=np.float32), rows=rows)], budget=2, seed=0)
    assert sorted(p.row for p in _flat(_epoch(plan, 0))) == [3, 5, 11]


def test_a_source_with_a_share_restarts_when_it_is_exhausted() -> None:
    plan = _plan([[1.0] * 90, [1.0] * 10], [1, 1])
    small = [p for p in _flat(_epoch(plan, 0)) if p.source == 1]
    assert Counter(p.epoch for p in small) == dict.fromkeys(range(5), 10)
    later = [p for p in _flat(_epoch(plan, 1)) if p.source == 1]
    assert sorted({p.epoch for p in later}) == [5, 6, 7, 8, 9]
    large = Counter(p.row for n in (0, 1) for p in _flat(_epoch(plan, n)) if p.source == 0)
    assert len(large) == 90


def test_a_pass_ends_before_the_next_begins() -> None:
    """However many passes an epoch holds: a small dataset is not drawn with replacement."""
    plan = _plan([[1.0] * 5000, [1.0] * 20], [1, 1], budget=1)
    # Records of one length, one per micro-batch, whose order is undone: what was dealt out, bucket by bucket.
    small = [p for batch in _epoch(plan, 0) for p in batch if p.source == 1]
    assert len({p.epoch for p in small}) > 100
    dealt = [p for p in _by_bucket(plan) if p.source == 1]
    assert [p.epoch for p in dealt] == sorted(p.epoch for p in dealt)


def _by_bucket(plan: Plan) -> list[Planned]:
    """Return an epoch's records as they were before micro-batches were shuffled: all are of one length."""
    order = plan._permutation(plan.num_micro_batches(0), 3, 0)
    batches = _epoch(plan, 0)
    return [batches[position][0] for position in np.argsort(order)]


def test_a_tiny_share_gives_a_record_now_and_then() -> None:
    plan = _plan([[1.0] * 5, [1.0]], [100, 1])
    counts = [sum(p.source == 1 for p in _flat(_epoch(plan, number))) for number in range(60)]
    assert sum(counts) == round(60 * 6 / 101)
    assert set(counts) == {0, 1}


def test_micro_batches_per_epoch_are_roughly_told() -> None:
    costs = [list(np.linspace(1, 5, 400)), list(np.linspace(2, 9, 100))]
    for weights in (None, [1.0, 3.0]):
        plan = _plan(costs, weights, budget=60)
        assert plan.micro_batches_per_epoch == pytest.approx(plan.num_micro_batches(0), rel=0.08)
        taken = Counter(p.source for batch in itertools.islice(plan.micro_batches(), 60) for p in batch)
        passes = [taken[i] / len(given) for i, given in enumerate(costs)]
        assert plan.passes(60) == pytest.approx(passes, rel=0.1)


@pytest.mark.parametrize(
    ("sources", "budget", "message"),
    [
        ([], 10, "the plan has no source"),
        ([_source("a", [])], 10, "source 'a' has no records"),
        (
            [_source("a", [1, 31.5, 40.25])],
            30,
            r"source 'a': 2 of 3 records cost more .* \(30\); .* record 2 with 40\.25",
        ),
        ([_source("a", [1, 0])], 10, "source 'a': record 1 costs 0; every record must cost at least"),
        ([_source("a", [1, float("nan")])], 10, "record 1 costs nan"),
        ([_source("a", [1, -2])], 10, "record 1 costs -2"),
        ([Source("a", np.ones(2, np.float32), np.ones(3, np.float32))], 10, "as many lengths and rows"),
        ([_source("a", [1])], 0, "budget must be above 0, not 0"),
        ([_source("a", [1])], float("inf"), "budget must be above 0, not inf"),
    ],
)
def test_refuses(sources: list[Source], budget: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(sources, budget=budget, seed=0)


def test_refuses_positions_that_are_not_there() -> None:
    for position in (Position(-1, 0), Position(0, 2), Position(0, -1)):
        with pytest.raises(ValueError, match="there is no micro-batch"):
            next(_plan([[1.0]]).micro_batches(position))


def test_a_record_may_fill_the_budget_exactly() -> None:
    assert _epoch(_plan([[0.1, 0.1, 0.1]], budget=0.1), 0).__len__() == 3


def test_without_weights_there_is_no_mixture() -> None:
    assert record_shares([None, None], [10, 30], [5.0, 5.0]) is None
    assert record_shares([None], [10], [5.0], by="seconds") is None


def test_weights_are_parts_of_the_samples() -> None:
    weights = [6, 2, 9, 1, 1, 1, 1]  # the published mixture of seven
    shares = record_shares(weights, [100] * 7, [1.0] * 7)
    assert shares == [Fraction(weight, 21) for weight in weights]


def test_weights_may_be_parts_of_the_seconds() -> None:
    # The same time from clips of 2 s and of 10 s: five of the short for one of the long.
    shares = record_shares([1, 1], [100, 100], [200.0, 1000.0], by="seconds")
    assert shares == [Fraction(5, 6), Fraction(1, 6)]


@pytest.mark.parametrize("by", ["samples", "seconds"])
def test_temperature_makes_parts_more_even(by: str) -> None:
    def small(temperature: float, weights: list[float | None]) -> float:
        shares = record_shares(weights, [900, 100], [900.0, 100.0], by=by, temperature=temperature)  # type: ignore[arg-type]
        assert shares is not None
        assert sum(shares) == 1
        return float(shares[1])

    assert small(2, [None, None]) == pytest.approx(10 / 40)  # square roots of 900 and 100
    assert small(2, [9.0, 1.0]) == pytest.approx(1 / 4)
    assert small(5, [None, None]) == pytest.approx(1 / (1 + 9**0.2))
    assert small(1000, [None, None]) == pytest.approx(0.5, abs=1e-3)
    assert small(0.5, [9.0, 1.0]) == pytest.approx(1 / 82)


def test_shares_are_rounded_over_all_epochs_together() -> None:
    share = Fraction(1, 30)
    begins = [share_begin(share, 10, epoch) for epoch in range(10)]
    assert begins == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert share_begin(Fraction(1, 3), 25_000_000, 1_000_000) == round(25_000_000_000_000 / 3)


def test_refuses_mixtures() -> None:
    with pytest.raises(ValueError, match="either every dataset has a weight or none has"):
        record_shares([1, None], [1, 1], [1.0, 1.0])
