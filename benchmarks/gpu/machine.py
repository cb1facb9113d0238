"""The machine: its card, its libraries, and the rates that bound everything else."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

from .clock import seconds
from .operations import rates
from .subject import Subject


def machine(subject: Subject) -> dict[str, Any]:
    """What it is, how fast it multiplies matrices in bf16, and how fast it copies memory."""
    device = subject.device
    source = torch.randn(subject.size.copied, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    took = seconds(device, lambda: target.copy_(source), subject.size.repeats)
    return {
        "card": card(device),
        "memory": torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        "cuda": torch.version.cuda,
        "capability": torch.cuda.get_device_capability(device) if device.type == "cuda" else None,
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "libraries": {
            "torch": torch.__version__,
            **{name: version(name) for name in ("transformers", "pytorch-lightning")},
        },
        "matrix_rate": rates(device),
        "bytes_per_second": 2 * source.nbytes / took,
    }


def card(device: torch.device) -> str:
    """Return the card's name, or the processor's kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
