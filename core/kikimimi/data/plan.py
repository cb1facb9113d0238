"""The order of training: which records make up which micro-batch.

A pure function of the records' costs, the sources' weights, the budget, the seed and the epoch; nothing is
read but the index. Resuming is a matter of counting micro-batches, however many processes share them.

Random numbers are the raw output of PCG64, which numpy keeps the same in all its versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BUCKET = 512  # records sorted by cost together: large enough for even lengths, small enough to stay random
_UNITS = 1_000_000  # per second: sums of whole numbers are the same on every machine
_ORDER, _PASS, _BATCHES = 1, 2, 3  # purposes of random numbers


@dataclass(frozen=True)
class Source:
    """The records of one dataset, as the plan sees them.

    Attributes:
        name: The dataset's name in the recipe.
        costs: (rows,) float32: what each record takes of a micro-batch's budget, above 0 [s].
        weight: Share of this source among all, or None to take every record once per epoch.
    """

    name: str
    costs: NDArray[np.float32]
    weight: float | None = None


class Planned(NamedTuple):
    """A record's place in the order.

    Attributes:
        source: Number of its source.
        row: Number of the record in the source.
        epoch: How often the source was gone through before: what varies from pass to pass (the phrasing of a
            prompt) is a function of it.
    """

    source: int
    row: int
    epoch: int


class _Epoch(NamedTuple):
    source: NDArray[np.int64]
    row: NDArray[np.int64]
    passes: NDArray[np.int64]
    starts: NDArray[np.int64]  # of the micro-batches, and the end of the last

    def batch(self, number: int) -> list[Planned]:
        part = slice(int(self.starts[number]), int(self.starts[number + 1]))
        return [
            Planned(*place)
            for place in zip(
                self.source[part].tolist(), self.row[part].tolist(), self.passes[part].tolist(), strict=True
            )
        ]

    def __len__(self) -> int:
        return len(self.starts) - 1


class Plan:
    """Plans micro-batches.

    Without weights an epoch is every record of every source once. With weights an epoch has as many records
    as all sources have together; each source gives its share, and goes on in the next epoch where it stopped:
    an endless stream of passes, each a new permutation, so that inside a pass none is lost or repeated.

    Micro-batches hold records of similar cost, so that padding inside a micro-batch stays small; their order
    is random.

    Args:
        sources: The datasets.
        batch_seconds: Budget of a micro-batch, kept to the microsecond [s].
        seed: Of the order.

    Raises:
        ValueError: A source is empty, some but not all sources have weights, a weight gives a source no
            record per epoch, or a record costs more than a whole micro-batch may.
    """

    def __init__(self, sources: Sequence[Source], *, batch_seconds: float, seed: int) -> None:
        if not sources:
            raise ValueError("the plan has no source")
        if not (np.isfinite(batch_seconds) and batch_seconds > 0):
            raise ValueError(f"batch_seconds must be above 0, not {batch_seconds}")
        if seed < 0:
            raise ValueError(f"seed must be 0 or more, not {seed}")
        self.sources = tuple(sources)
        self.batch_seconds = batch_seconds
        self.seed = seed
        self._budget = int(_units(np.array([batch_seconds], dtype=np.float32))[0])
        for source in self.sources:
            self._check(source)
        self._costs = np.concatenate([_units(source.costs) for source in self.sources])
        self._firsts = np.cumsum([0, *(len(source.costs) for source in self.sources)], dtype=np.int64)
        self._shares = self._share_out()
        self._counts: list[int] = []  # micro-batches of epoch 0, 1, ...
        self._latest: tuple[int, _Epoch] | None = None

    def _check(self, source: Source) -> None:
        costs = source.costs
        if not len(costs):
            raise ValueError(f"source '{source.name}' has no records")
        wrong = np.flatnonzero(~(np.isfinite(costs) & (_units(costs) > 0)))
        if len(wrong):
            raise ValueError(
                f"source '{source.name}': record {wrong[0]} costs {costs[wrong[0]]:g} s; "
                "every record must cost at least a microsecond"
            )
        dear = np.flatnonzero(_units(costs) > self._budget)
        if len(dear):
            worst = int(np.argmax(costs))
            raise ValueError(
                f"source '{source.name}': {len(dear)} of {len(costs)} records cost more than a micro-batch "
                f"may ({self.batch_seconds:g} s); the dearest is record {worst} with {costs[worst]:.2f} s. "
                f"Raise batch.seconds to {np.ceil(costs[worst]):g} or take such records out"
            )

    def _share_out(self) -> list[int] | None:
        weights = [source.weight for source in self.sources if source.weight is not None]
        if not weights:
            return None
        if len(weights) < len(self.sources):
            bare = ", ".join(f"'{source.name}'" for source in self.sources if source.weight is None)
            raise ValueError(f"either every source has a weight or none has; without weight: {bare}")
        if not all(np.isfinite(weight) and weight > 0 for weight in weights):
            raise ValueError(f"weights must be above 0, not {', '.join(f'{weight:g}' for weight in weights)}")
        total = len(self._costs)
        exact = [total * (weight / sum(weights)) for weight in weights]
        shares = [int(value) for value in exact]
        by_remainder = sorted(range(len(shares)), key=lambda i: (shares[i] - exact[i], i))
        for i in by_remainder[: total - sum(shares)]:
            shares[i] += 1
        for source, share in zip(self.sources, shares, strict=True):
            if share == 0:
                raise ValueError(
                    f"weight {source.weight:g} of source '{source.name}' gives it none of the "
                    f"{total} records of an epoch; raise it or take the source out"
                )
        return shares

    def __len__(self) -> int:
        """Return the number of records of an epoch."""
        return len(self._costs)

    def epoch(self, number: int) -> list[list[Planned]]:
        """Return the micro-batches of an epoch in order."""
        epoch = self._epoch(number)
        return [epoch.batch(i) for i in range(len(epoch))]

    def micro_batches(self, start: int = 0) -> Iterator[list[Planned]]:
        """Yield micro-batches without end, over the epochs, from micro-batch number `start` on.

        Raises:
            ValueError: `start` is negative.
        """
        if start < 0:
            raise ValueError(f"start must be 0 or more, not {start}")
        number, first = 0, start
        while first >= self.num_micro_batches(number):
            first -= self.num_micro_batches(number)
            number += 1
        while True:
            epoch = self._epoch(number)
            for i in range(first, len(epoch)):
                yield epoch.batch(i)
            number, first = number + 1, 0

    def num_micro_batches(self, number: int) -> int:
        """Return the number of micro-batches of an epoch."""
        while len(self._counts) <= number:
            self._counts.append(len(self._epoch(len(self._counts))))
        return self._counts[number]

    def _epoch(self, number: int) -> _Epoch:
        if self._latest is None or self._latest[0] != number:
            self._latest = number, self._build(number)
        return self._latest[1]

    def _build(self, number: int) -> _Epoch:
        if self._shares is None:
            records = self._permutation(len(self._costs), _ORDER, number)
            passes = np.full(len(records), number, dtype=np.int64)
        else:
            parts = [self._stream(i, number * share, share) for i, share in enumerate(self._shares)]
            mixed = self._permutation(len(self._costs), _ORDER, number)
            records = np.concatenate([part[0] for part in parts])[mixed]
            passes = np.concatenate([part[1] for part in parts])[mixed]
        order = _by_cost(self._costs[records])
        records, passes = records[order], passes[order]
        batches = self._fill(self._costs[records])
        starts, ends = batches[:-1], batches[1:]
        shuffled = self._permutation(len(starts), _BATCHES, number)
        take = np.concatenate([np.arange(int(starts[i]), int(ends[i])) for i in shuffled])
        records, passes = records[take], passes[take]
        source = np.searchsorted(self._firsts, records, side="right") - 1
        sizes = (ends - starts)[shuffled]
        return _Epoch(
            source=source,
            row=records - self._firsts[source],
            passes=passes,
            starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        )

    def _stream(self, source: int, begin: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return `count` records from position `begin` of a source's endless stream, and their passes."""
        rows = len(self.sources[source].costs)
        positions = np.arange(begin, begin + count, dtype=np.int64)
        passes = positions // rows
        records = np.empty(count, dtype=np.int64)
        for number in range(int(passes[0]), int(passes[-1]) + 1):
            here = passes == number
            records[here] = self._permutation(rows, _PASS, number, source)[positions[here] - number * rows]
        return records + self._firsts[source], passes

    def _permutation(self, count: int, *purpose: int) -> NDArray[np.int64]:
        bits = np.random.PCG64(np.random.SeedSequence([self.seed, *purpose])).random_raw(count)
        return np.argsort(bits, kind="stable")

    def _fill(self, costs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where micro-batches begin when each takes the next records up to the budget; and the end."""
        sums = np.cumsum(costs)
        starts, spent = [0], 0
        while starts[-1] < len(costs):
            end = int(np.searchsorted(sums, spent + self._budget, side="right"))
            starts.append(end)
            spent = int(sums[end - 1])
        return np.array(starts, dtype=np.int64)


def _units(seconds: NDArray[np.float32]) -> NDArray[np.int64]:
    finite = np.nan_to_num(seconds.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return np.rint(finite * _UNITS).astype(np.int64)


def _by_cost(costs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort inside buckets; every other one downwards, so that a batch across two buckets has even costs."""
    order = []
    for number, begin in enumerate(range(0, len(costs), _BUCKET)):
        bucket = costs[begin : begin + _BUCKET]
        order.append(begin + np.argsort(-bucket if number % 2 else bucket, kind="stable"))
    return np.concatenate(order)
