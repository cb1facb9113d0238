"""The state of a process's random generators: torch's on CPU and GPU, numpy's, Python's."""

import hashlib
import random
from typing import Any

import numpy
import torch

_RANDOM = {"torch", "cuda", "numpy", "python"}


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


def seed_random_state(seed: int, stage: str, rank: int, step: int) -> None:
    """Seed this process's random generators with numbers that no other rank, stage or step begins with.

    Args:
        seed: The recipe's.
        stage: Name of the stage.
        rank: Rank of this process.
        step: Step after which it begins to draw.
    """
    digest = hashlib.sha256(f"{seed} {stage} {rank} {step}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # those of all devices
    numpy.random.seed(int.from_bytes(digest[8:12], "big"))
    random.seed(digest)


def restore_random_state(state: dict[str, Any]) -> None:
    """Set this process's random generators to a saved state."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    numpy.random.set_state(_numpy_state(state["numpy"]))
    random.setstate(state["python"])


def check_random_state(state: dict[str, Any]) -> None:
    """Check that generators take a saved state.

    Raises:
        ValueError: It is damaged.
        TypeError: Likewise.
        KeyError: Likewise.
    """
    if not state.keys() >= _RANDOM:
        raise ValueError("it lacks the state of random generators")
    try:  # on generators of no use
        torch.Generator().set_state(state["torch"])
        numpy.random.RandomState().set_state(_numpy_state(state["numpy"]))
        random.Random().setstate(state["python"])
    except (AttributeError, IndexError, OverflowError, RuntimeError) as error:
        raise ValueError(f"the state of its random generators is damaged: {error}") from error


def _numpy_state(state: list[Any]) -> tuple[str, Any, int, int, float]:
    name, keys, position, has_gauss, gauss = state
    return name, keys.numpy().astype("uint32"), position, has_gauss, gauss
