"""The random generators of one process, saved and put back."""

import random
from typing import Any

import numpy
import torch


def random_state() -> dict[str, Any]:
    """Return the state of this process's random generators: torch's on CPU and GPU, numpy's, Python's."""
    state: Any = numpy.random.get_state(legacy=True)
    name, keys, position, has_gauss, gauss = state
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [name, torch.from_numpy(keys.astype("int64")), int(position), int(has_gauss), float(gauss)],
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set this process's random generators to a saved state."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, gauss))
    random.setstate(state["python"])
