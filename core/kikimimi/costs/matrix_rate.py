"""How fast this device multiplies matrices: what the operations of training are compared with."""

import time
from functools import lru_cache

import torch

from kikimimi.contracts.precision import DTYPES

_SECONDS = {"cpu": 0.3, "cuda": 1.0}
"""How long is measured [s]: a GPU raises its clock first."""
_SIZE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns: large enough that memory does not matter."""


@lru_cache(maxsize=8)
def matrix_rate(device: torch.device, precision: str) -> float:
    """Multiply square matrices for a second at most and return the best rate [FLOP/s]; once per process.

    Args:
        device: The device; a CPU works with as many threads as torch has now.
        precision: A trainer's precision: fp32 as torch is set (TF32 or not), bf16 or fp16.
    """
    size = _SIZE.get(device.type, 4096)
    left, right = (torch.ones(size, size, device=device, dtype=DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(left)
    best, end = float("inf"), time.perf_counter() + _SECONDS.get(device.type, 1.0)
    torch.mm(left, right, out=out)  # the first call prepares
    while time.perf_counter() < end:
        _wait(device)
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
