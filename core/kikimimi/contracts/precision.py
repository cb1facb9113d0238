"""Number formats: their names in recipes, computing in one of them, and leaving it for a while."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Number formats by the names that recipes give them."""


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return a context that computes as a trainer of that precision does: with fp32, nothing is cast."""
    dtype = DTYPES[precision]
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which autocast of a device does nothing, as spectrograms need it.

    Devices that have no autocast (the meta device, on which a plan runs components) are taken as well.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
