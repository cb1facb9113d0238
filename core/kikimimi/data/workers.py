"""Processes that work for this one: spawned, with one thread each, and ended when this one ends."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

from kikimimi.errors import DataError

# Spawned, not forked: a fork copies the locks of threads that torch, a voice or a progress bar has started.
SPAWNING = multiprocessing.get_context("spawn")
"""Makes the processes, and what they share."""

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")


def start_pool(
    workers: int, prepare: Callable[..., None] | None = None, *arguments: Any
) -> ProcessPoolExecutor:
    """Return processes that end when this one ends, however it does.

    Args:
        workers: Number of processes.
        prepare: Function that each of them calls first; one of a module, so that they find it.
        arguments: What it is called with.
    """
    return ProcessPoolExecutor(workers, SPAWNING, _start, (prepare, arguments))


def in_order(work: Callable[[_Item], _Done], tasks: Sequence[_Item], workers: int) -> Iterator[_Done]:
    """Yield the results of `work` in the order of the tasks.

    Args:
        work: A function of a module, so that other processes find it.
        tasks: What it is called with.
        workers: Processes; with 1, or a single task, the work is done in this one.

    Raises:
        DataError: A process died.
    """
    if min(workers, len(tasks)) <= 1:
        yield from map(work, tasks)
        return
    with start_pool(min(workers, len(tasks))) as pool:
        try:
            yield from pool.map(work, tasks)
        except BrokenProcessPool as error:
            raise DataError(
                "a process has died; out of memory? Run the same command again, with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # Ctrl-C reaches every process of the terminal: the first one stops the others after their current tasks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes are the parallelism
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    # A parent that is killed cannot stop its children, and they would wait for work for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What asks a training to stop; the training process sees to it, its readers do not."""


def ignore_signals(worker: int) -> None:
    """Leave it to the training process to stop: schedulers send signals to all processes at once."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
