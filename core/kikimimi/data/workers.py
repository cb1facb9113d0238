"""The same work on many things, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_order(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """Yield the results of `work` in the order of the tasks.

    Args:
        work: A function of a module, so that other processes find it.
        tasks: What it is called with.
        workers: Processes; with 1, or a single task, the work is done in this one.
    """
    if min(workers, len(tasks)) <= 1:
        yield from map(work, tasks)
        return
    # Spawned: a fork would copy the thread that draws the progress bar in whatever state it is.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
        yield from pool.map(work, tasks)
