"""The processes that pack: each makes whole shards, so that their number changes nothing in what is made."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from multiprocessing import connection
from multiprocessing.context import SpawnContext
from typing import Any

from kikimimi.data.pack_settings import PackSettings
from kikimimi.data.pack_shard import PackedShard, ShardJob, pack_shard
from kikimimi.data.pack_source import PackSource
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
        # Spawned, not forked: a fork copies the locks of threads that torch may have started.
        context: SpawnContext = multiprocessing.get_context("spawn")
        self.jobs, self.workers = jobs, workers
        # Memory that is shared without a lock: a process that is killed with a lock in hand would stop all
        # others. Only the process that makes a shard writes its number.
        self.rows = context.RawArray("q", [_WAITING] * len(jobs))
        self.stop = context.RawValue("b", 0)
        self.made: dict[int, Made] = {}
        corpus = (source.path, source.name, source.config)
        self.pool = ProcessPoolExecutor(
            workers, context, _start_process, (corpus, settings, self.rows, self.stop)
        )

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


def _start_process(corpus: tuple[str, str, Any], settings: PackSettings, rows: Any, stop: Any) -> None:
    start_process()
    _worker.append(_Worker(corpus, settings, rows, stop))


def start_process() -> None:
    """Prepare a process that the first one has started to work for it: it ends when the first one ends."""
    # Ctrl-C reaches every process of the terminal: the first one stops the others after their current rows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that is killed cannot stop its children, and they would wait for work for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _work(number: int, job: ShardJob) -> Made:
    try:
        return _worker[0].make(number, job)
    except KikimimiError as error:
        # Some errors take more than a message, and could not be sent to the first process.
        raise (RequestError if isinstance(error, RequestError) else DataError)(str(error)) from None
