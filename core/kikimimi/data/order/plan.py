"""The order of training: which records make up which micro-batch.

A pure function of the records' costs and lengths, the shares of the sources, the budget, the seed and the
epoch; nothing is read but the index. Resuming is a matter of counting micro-batches, however many processes
share them.

Random numbers are the raw output of PCG64, which numpy keeps the same in all its versions, and all sums are
of whole numbers, and shares are fractions of them: the order is the same on every machine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

_DIGITS = 12  # of a power: more may differ between machines


def record_shares(
    weights: Sequence[float | None],
    counts: Sequence[int],
    seconds: Sequence[float],
    *,
    by: Literal["samples", "seconds"] = "samples",
    temperature: float = 1.0,
) -> list[Fraction] | None:
    """Return each dataset's share of the records, or None where every record is taken once per epoch.

    A dataset's part of the mixture is proportional to w^(1/T): w is its weight, or where there are no
    weights its size, and T the temperature (as in mT5, https://arxiv.org/abs/2010.11934, section 3.1, with
    alpha = 1/T). Above 1 the parts become more even, and for very large T all the same.

    Args:
        weights: Each dataset's weight; all have one, or none has.
        counts: How many records each has.
        seconds: How much audio each has, its written text counted, too [s].
        by: Whether parts of the mixture are parts of the records or of the seconds.
        temperature: The T above.

    Raises:
        ValueError: Some have weights and others not.
    """
    given = [weight for weight in weights if weight is not None]
    if given and len(given) < len(weights):
        raise ValueError("either every dataset has a weight or none has")
    if not given and temperature == 1:
        return None
    sizes = [float(size) for size in (counts if by == "samples" else seconds)]
    parts = [_power(size, temperature) for size in given or sizes]
    if by == "seconds":
        # Of as many seconds, a dataset of short records gives more of them.
        parts = [
            part * count / Fraction(round(total * 1000), 1000)
            for part, count, total in zip(parts, counts, seconds, strict=True)
        ]
    return [part / sum(parts) for part in parts]


def share_begin(share: Fraction, total: int, epoch: int) -> int:
    """Return how many records of a dataset are behind it when an epoch of `total` records begins.

    Rounded over all epochs together: a share of less than one record per epoch gives one now and then.
    """
    return (epoch * total * share.numerator * 2 + share.denominator) // (2 * share.denominator)


def _power(base: float, temperature: float) -> Fraction:
    if temperature == 1:
        return Fraction(base)
    return Fraction(f"{base ** (1 / temperature):.{_DIGITS}g}")


_SMALLEST_BUCKET = 512  # records: enough to fill even micro-batches of few clips evenly
_UNITS = 1_000_000  # per second or position
_ORDER, _PASS, _BATCHES = 1, 2, 3  # purposes of random numbers
_Numbers = NDArray[np.int32 | np.int64]


@dataclass(frozen=True)
class Source:
    """The records of one dataset, as the plan sees them.

    Attributes:
        name: The dataset's name in the recipe.
        costs: (n,) float32: what each record takes of a micro-batch's budget, above 0 [s or positions].
        lengths: (n,) float32: what the encoder pads to the longest of a micro-batch; records of similar
            length are put together. None: the costs.
        rows: (n,) int: the records' rows in the dataset, where not all of them are used. None: 0, 1, 2...
    """

    name: str
    costs: NDArray[np.float32]
    lengths: NDArray[np.float32] | None = None
    rows: NDArray[np.int32] | None = None


class Planned(NamedTuple):
    """A record's place in the order.

    Attributes:
        source: Number of its source.
        row: Row of the record in its dataset.
        epoch: How often the source was gone through before: what varies from pass to pass (the phrasing of a
            prompt) is a function of it.
    """

    source: int
    row: int
    epoch: int

    def phrasing_seed(self, seed: int, dataset: str) -> str:
        """Return what seeds the choices about this record in this pass: the phrasing of a prompt."""
        return f"{seed}/{dataset}/{self.epoch}/{self.row}"


class Position(NamedTuple):
    """A place between micro-batches: that many of an epoch are behind it."""

    epoch: int
    micro_batch: int


START = Position(0, 0)


class _Epoch(NamedTuple):
    number: int
    records: _Numbers  # of all sources, counted through
    passes: NDArray[np.int32] | None  # None: the epoch's number
    starts: NDArray[np.int64]  # of the micro-batches, and the end of the last

    def __len__(self) -> int:
        return len(self.starts) - 1


class Plan:
    """Plans micro-batches.

    Without shares an epoch is every record of every source once. With shares an epoch has as many records as
    all sources have together; each source gives its share, and goes on in the next epoch where it stopped: an
    endless stream of passes, each a new permutation, so that inside a pass none is lost or repeated.

    Micro-batches hold records of similar length, so that padding inside a micro-batch stays small; their
    order is random.

    Args:
        sources: The datasets.
        budget: What a micro-batch may cost, kept to a millionth [s or positions].
        seed: The order's seed.
        shares: Each source's share of the records (`record_shares`), or None.
        bucket: How many micro-batches' records are sorted by length together: the more, the less padding, and
            the more alike are the lengths of those that meet.

    Raises:
        ValueError: A source is empty, the budget makes no sense, or a record costs more than a whole
            micro-batch may.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        budget: float,
        seed: int,
        shares: Sequence[Fraction] | None = None,
        bucket: int = 32,
    ) -> None:
        if not sources:
            raise ValueError("the plan has no source")
        if not (np.isfinite(budget) and budget > 0):
            raise ValueError(f"budget must be above 0, not {budget}")
        self.sources = tuple(sources)
        self.budget, self.seed, self.bucket = budget, seed, bucket
        self._budget = int(_units(np.array([budget], dtype=np.float64))[0])
        for source in self.sources:
            self._check(source)
        self._costs = _joined([source.costs for source in self.sources])
        self._lengths = _joined([_lengths(source) for source in self.sources])
        self._firsts = np.cumsum([0, *(len(source.costs) for source in self.sources)], dtype=np.int64)
        self._shares = None if shares is None else tuple(shares)
        self._counts: dict[int, int] = {}  # micro-batches of the epochs that were built
        self._latest: _Epoch | None = None

    def _check(self, source: Source) -> None:
        costs = source.costs
        if not len(costs):
            raise ValueError(f"source '{source.name}' has no records")
        if any(len(column) != len(costs) for column in (_lengths(source), source.rows) if column is not None):
            raise ValueError(f"source '{source.name}': as many lengths and rows as costs are needed")
        units = _units(costs)
        if len(wrong := np.flatnonzero(~(np.isfinite(costs) & (units > 0)))):
            raise ValueError(
                f"source '{source.name}': record {wrong[0]} costs {costs[wrong[0]]:g}; "
                "every record must cost at least a millionth"
            )
        if len(dear := np.flatnonzero(units > self._budget)):
            worst = int(np.argmax(costs))
            raise ValueError(
                f"source '{source.name}': {len(dear)} of {len(costs)} records cost more than a micro-batch "
                f"may ({self.budget:g}); the dearest is record {worst} with {costs[worst]:.2f}"
            )

    def __len__(self) -> int:
        """Return the number of records of an epoch; with shares, on average."""
        return len(self._costs)

    @property
    def micro_batches_per_epoch(self) -> float:
        """How many micro-batches an epoch has, roughly: as if all were full."""
        if self._shares is None:
            return float(np.sum(self._costs, dtype=np.float64)) / self.budget
        means = [float(np.mean(source.costs, dtype=np.float64)) for source in self.sources]
        cost = sum(float(share) * mean for share, mean in zip(self._shares, means, strict=True))
        return len(self) * cost / self.budget

    def passes(self, micro_batches: int) -> list[float]:
        """Return how often each source is gone through in so many micro-batches, roughly."""
        epochs = micro_batches / self.micro_batches_per_epoch
        if self._shares is None:
            return [epochs] * len(self.sources)
        return [
            epochs * float(share) * len(self) / len(source.costs)
            for share, source in zip(self._shares, self.sources, strict=True)
        ]

    def micro_batches(self, start: Position = START) -> Iterator[list[Planned]]:
        """Yield micro-batches without end, over the epochs, from a position on.

        Raises:
            ValueError: There is no such position.
        """
        number, first = start
        if number < 0 or not 0 <= first <= self.num_micro_batches(number):
            raise ValueError(f"there is no micro-batch {first} in epoch {number}")
        while True:
            epoch = self._epoch(number)
            for i in range(first, len(epoch)):
                yield self._batch(epoch, i)
            number, first = number + 1, 0

    def advance(self, start: Position, count: int) -> Position:
        """Return the position `count` micro-batches after another."""
        number, first = start.epoch, start.micro_batch + count
        while first >= self.num_micro_batches(number):
            first -= self.num_micro_batches(number)
            number += 1
        return Position(number, first)

    def num_micro_batches(self, number: int) -> int:
        """Return the number of micro-batches of an epoch."""
        if number not in self._counts:
            self._epoch(number)
        return self._counts[number]

    def _batch(self, epoch: _Epoch, number: int) -> list[Planned]:
        part = slice(int(epoch.starts[number]), int(epoch.starts[number + 1]))
        records = epoch.records[part]
        owners = np.searchsorted(self._firsts, records, side="right") - 1
        places = (records - self._firsts[owners]).tolist()
        passes = [epoch.number] * len(places) if epoch.passes is None else epoch.passes[part].tolist()
        planned = []
        for owner, place, number_of_pass in zip(owners.tolist(), places, passes, strict=True):
            rows = self.sources[owner].rows
            planned.append(Planned(owner, place if rows is None else int(rows[place]), number_of_pass))
        return planned

    def _epoch(self, number: int) -> _Epoch:
        if self._latest is None or self._latest.number != number:
            self._latest = None  # two of them at once would double the memory
            self._latest = self._build(number)
            self._counts[number] = len(self._latest)
        return self._latest

    def _build(self, number: int) -> _Epoch:
        passes: NDArray[np.int32] | None = None
        if self._shares is None:
            records = self._narrow(self._permutation(len(self), _ORDER, number))
        else:
            # Which source comes next is random, but a pass of a source ends before its next one begins.
            streams = [self._stream(i, share, number) for i, share in enumerate(self._shares)]
            owners = np.repeat(np.arange(len(streams)), [len(stream[0]) for stream in streams])
            owners = owners[self._permutation(len(owners), _ORDER, number)]
            records = np.empty(len(owners), dtype=streams[0][0].dtype)
            passes = np.empty(len(owners), dtype=np.int32)
            for owner, stream in enumerate(streams):
                records[owners == owner], passes[owners == owner] = stream
        order = self._by_length(records)
        records, passes = records[order], None if passes is None else passes[order]
        bounds = self._fill(_units(self._costs[records]))
        starts, ends = bounds[:-1], bounds[1:]
        shuffled = self._permutation(len(starts), _BATCHES, number)
        take = np.concatenate([np.arange(int(starts[i]), int(ends[i])) for i in shuffled])
        return _Epoch(
            number,
            records[take],
            None if passes is None else passes[take],
            np.concatenate([[0], np.cumsum((ends - starts)[shuffled])]).astype(np.int64),
        )

    def _stream(self, source: int, share: Fraction, epoch: int) -> tuple[_Numbers, NDArray[np.int32]]:
        """Return an epoch's records of a source's endless stream of passes, and the pass of each."""
        rows = len(self.sources[source].costs)
        begin, end = (share_begin(share, len(self), number) for number in (epoch, epoch + 1))
        records, passes = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int32)]
        for number in range(begin // rows, -(-end // rows)):
            part = slice(max(begin - number * rows, 0), min(end - number * rows, rows))
            records.append(self._permutation(rows, _PASS, number, source)[part])
            passes.append(np.full(len(records[-1]), number, dtype=np.int32))
        return self._narrow(np.concatenate(records) + self._firsts[source]), np.concatenate(passes)

    def _narrow(self, records: NDArray[np.int64]) -> _Numbers:
        return records.astype(np.int32) if self._firsts[-1] < 1 << 31 else records

    def _permutation(self, count: int, *purpose: int) -> NDArray[np.int64]:
        bits = np.random.PCG64(np.random.SeedSequence([self.seed, *purpose])).random_raw(count)
        return np.argsort(bits, kind="stable")

    def _by_length(self, records: _Numbers) -> NDArray[np.int64]:
        """Sort inside buckets; every other one downwards, so that a batch across two buckets is even, too."""
        lengths = self._lengths[records]
        total = int(_units(self._costs[records]).sum())
        size = max(_SMALLEST_BUCKET, self.bucket * self._budget * len(records) // total)
        order = []
        for number, begin in enumerate(range(0, len(records), size)):
            bucket = lengths[begin : begin + size]
            order.append(begin + np.argsort(-bucket if number % 2 else bucket, kind="stable"))
        return np.concatenate(order)

    def _fill(self, costs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where micro-batches begin when each takes the next records up to the budget; and the end."""
        sums = np.cumsum(costs)
        starts, spent = [0], 0
        while starts[-1] < len(costs):
            end = int(np.searchsorted(sums, spent + self._budget, side="right"))
            starts.append(end)
            spent = int(sums[end - 1])
        return np.array(starts, dtype=np.int64)


def _joined(columns: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _lengths(source: Source) -> NDArray[np.float32]:
    return source.costs if source.lengths is None else source.lengths


def _units(costs: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.int64]:
    finite = np.nan_to_num(costs.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return np.rint(finite * _UNITS).astype(np.int64)
