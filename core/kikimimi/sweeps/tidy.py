"""Tidying up a process between two runs that it trains."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def tidy() -> None:
    """Give back what a run has held, and measure memory from here on: the next one begins as the first."""
    import torch

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # proc(5): the peak of the resident set is what it is now
