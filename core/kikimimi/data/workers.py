"""Processes that work for this one: spawned, with one thread each, and ended when this one ends."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from types import FrameType
from typing import Any, TypeVar

from kikimimi.console.signals import STOP_SIGNALS, signals_held
from kikimimi.errors import DataError

# Spawned, not forked: a fork copies the locks of threads that torch, a voice or a progress bar has started.
SPAWNING = multiprocessing.get_context("spawn")
"""Makes the processes, and what they share."""

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")

_TO_CLEAN_UP = 1.0
"""How long a process that is to end may take for what it is in the middle of [s]."""
_SIGNALS_TRAVEL = 0.3
"""How long a signal that was sent to all processes may take to reach this one after the others [s]."""


@contextmanager
def working_processes(
    workers: int, prepare: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[Callable[..., "Future[Any]"]]:
    """Start processes that end when this one ends, however it does.

    An error or a signal here ends them where they are: they remove what they have half written.

    Args:
        workers: Number of processes.
        prepare: Function that each of them calls first; one of a module, so that they find it.
        arguments: What it is called with.

    Yields:
        Function that lets one of them call a function (of a module) with arguments.

    Raises:
        BrokenProcessPool: One of them died.
    """
    with signals_held():  # Python's own process beside them would die of SIGUSR1, with a traceback in the end
        resource_tracker.ensure_running()
    told, tell = SPAWNING.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, SPAWNING, _start, (told, prepare, arguments))

    def submit(work: Callable[..., Any], *given: Any) -> Future[Any]:
        with signals_held():  # any of them may start one more process
            return pool.submit(_work, work, *given)

    try:
        yield submit
    except BrokenProcessPool:
        time.sleep(_SIGNALS_TRAVEL)  # what ended them may be on its way here
        raise
    except BaseException:
        tell.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        tell.close()
        told.close()


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
    try:
        with working_processes(min(workers, len(tasks))) as submit:
            futures = deque(submit(work, task) for task in tasks)
            while futures:
                yield futures.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process has died; out of memory? Run the same command again, with fewer --workers"
        ) from error


class _Ended(BaseException):
    pass


_busy: list[bool] = []  # not empty while this process works


def _work(work: Callable[..., _Done], *arguments: Any) -> _Done:
    _busy.append(True)
    try:
        return work(*arguments)
    except _Ended:
        os._exit(1)
    finally:
        _busy.clear()


def _end(number: int, frame: FrameType | None) -> None:
    """End soon: having cleaned up after the work, or having handed on what is done."""
    signal.setitimer(signal.ITIMER_REAL, _TO_CLEAN_UP)  # its signal ends a process
    if _busy:
        _busy.clear()
        raise _Ended


def _start(
    told: connection.Connection, prepare: Callable[..., None] | None, arguments: tuple[Any, ...]
) -> None:
    # Signals are held here. A terminal, or a scheduler, sends them to all processes: the first one's handler
    # says what is to happen.
    for number in STOP_SIGNALS:
        signal.signal(number, _end if number == signal.SIGTERM else signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes are the parallelism
    threading.Thread(target=_end_when_told, args=(told,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # in this thread alone: one that waits wakes up
    if prepare is not None:
        prepare(*arguments)


def _end_when_told(told: connection.Connection) -> None:
    # A parent that is killed cannot stop its children, and they would wait for work for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel, told])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_TO_CLEAN_UP)
    os._exit(1)


def ignore_signals(worker: int) -> None:
    """Leave it to the training process to stop: schedulers send signals to all processes at once."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
