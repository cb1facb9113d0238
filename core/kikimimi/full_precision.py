"""Leaving autocast for a while, on any device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which autocast of a device does nothing, as spectrograms need it.

    Devices that have no autocast (the meta device, on which a plan runs components) are taken as well.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
