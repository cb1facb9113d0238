"""The processes that pack: each makes whole shards, so that their number changes nothing in what is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from typing import Any

from kikimimi.data.packing.settings import PackSettings
from kikimimi.data.packing.shard import PackedShard, ShardJob, pack_shard
from kikimimi.data.packing.source import PackSource
from kikimimi.data.workers import CONTEXT, start_pool
from kikimimi.errors import DataError, KikimimiError, RequestError

_SECONDS_BETWEEN_LOOKS = 0.2  # at how far the processes are
_WAITING = -1  # in place of the rows that are done, for a shard that nobody has begun

Made = tuple[PackedShard, bool]


def pack_shards(
    jobs: Sequence[ShardJob],
    source: PackSource,
    settings: PackSettings,
    *,
    workers: int,
    advance: Callable[[int], None],
) -> list[Made]:
    """Make shards, in processes where there is more than one worker.

    Args:
        jobs: The shards.
        source: The corpus; each process opens it anew.
        settings: Of the packing.
        workers: Processes; 1 means this one.
        advance: Is called in this process with how many more rows are done.

    Returns:
        For each job what the shard holds, and whether it was there before.

    Raises:
        RequestError: The corpus cannot be opened by a process.
        DataError: The corpus is malformed, or a process died. Shards that are whole are kept.
    """
    workers = min(workers, len(jobs))
    if workers == 1:
        return [pack_shard(job, source, settings, advance) for job in jobs]
    return _Processes(jobs, source, settings, workers).run(advance)


class _Processes:
    def __init__(
        self, jobs: Sequence[ShardJob], source: PackSource, settings: PackSettings, workers: int
    ) -> None:
        self.jobs, self.workers = jobs, workers
        # Memory that is shared without a lock: a process that is killed with a lock in hand would stop all
        # others. Only the process that makes a shard writes its number.
        self.rows = CONTEXT.RawArray("q", [_WAITING] * len(jobs))
        self.stop = CONTEXT.RawValue("b", 0)
        self.made: dict[int, Made] = {}
        corpus = (source.path, source.name, source.config)
        self.pool = start_pool(workers, _open, corpus, settings, self.rows, self.stop)

    def run(self, advance: Callable[[int], None]) -> list[Made]:
        try:
            self._run(advance)
        except BrokenProcessPool as error:
            raise DataError(self._died()) from error
        finally:
            self.stop.value = 1  # after their current rows, where some are left
            self.pool.shutdown(cancel_futures=True)
        return [self.made[number] for number in range(len(self.jobs))]

    def _run(self, advance: Callable[[int], None]) -> None:
        todo = iter(range(len(self.jobs)))
        running: dict[Future[Made], int] = {}
        shown = 0
        while True:
            # A few at a time: waiting looks at every one of them.
            while len(running) < 2 * self.workers and (number := next(todo, None)) is not None:
                running[self.pool.submit(_work, number, self.jobs[number])] = number
            if not running:
                return
            finished, _ = wait(running, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
            for future in finished:
                number = running.pop(future)
                self.made[number] = future.result()
            done = sum(rows for rows in self.rows if rows > 0)
            advance(done - shown)
            shown = done

    def _died(self) -> str:
        at_work = ", ".join(
            f"row {job.begin + rows} ({job.shard.name})"
            for number, (job, rows) in enumerate(zip(self.jobs, self.rows, strict=True))
            if rows != _WAITING and number not in self.made
        )
        return (
            f"a process that packs has died; out of memory? At work then: {at_work or 'none'}. Whole shards "
            "are kept: the same command goes on from here, and with fewer --workers it needs less memory"
        )


class _StoppedError(Exception):
    pass


class _Worker:
    def __init__(self, corpus: tuple[str, str, Any], settings: PackSettings, rows: Any, stop: Any) -> None:
        self.corpus, self.settings, self.rows, self.stop = corpus, settings, rows, stop

    @cached_property
    def source(self) -> PackSource:
        # Opened for the first shard, not when the process starts: an error there would reach nobody.
        return PackSource.build(*self.corpus)

    def make(self, number: int, job: ShardJob) -> Made:
        self.rows[number] = 0

        def advance(count: int) -> None:
            self.rows[number] += count
            if self.stop.value:
                raise _StoppedError

        return pack_shard(job, self.source, self.settings, advance)


_worker: list[_Worker] = []  # the one of this process, or none in the first process


def _open(corpus: tuple[str, str, Any], settings: PackSettings, rows: Any, stop: Any) -> None:
    _worker.append(_Worker(corpus, settings, rows, stop))


def _work(number: int, job: ShardJob) -> Made:
    try:
        return _worker[0].make(number, job)
    except KikimimiError as error:
        # Some errors take more than a message, and could not be sent to the first process.
        raise (RequestError if isinstance(error, RequestError) else DataError)(str(error)) from None
