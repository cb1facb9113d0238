"""Time on a device, and its memory: a GPU works on while Python does, and has to be waited for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, work: Callable[[], object], repeats: int, warm_up: int = 2) -> float:
    """Return the median time of some work [s]; the first times are not counted."""
    times = []
    for number in range(warm_up + repeats):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        if number >= warm_up:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Return the most memory that tensors have taken since the peak was forgotten [bytes]; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
