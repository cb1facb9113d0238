"""Checkpoints without pickle: a folder of safetensors and JSON, written whole or not at all.

step-000400/
    weights.safetensors   what was trained (named parameters)
    resume.safetensors    tensors of the resume state: optimiser, random generators
    resume.json           the rest of it: schedule, loops, data position
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kikimimi.errors import RunError
from kikimimi.run_folder import WEIGHTS

RESUME_TENSORS, RESUME_STATE = "resume.safetensors", "resume.json"


class FolderCheckpointIO(CheckpointIO):
    """Lightning's checkpoint dictionary as a folder.

    Args:
        metadata: Provenance written into the header of the weights file.
    """

    def __init__(self, metadata: dict[str, str]) -> None:
        self.metadata = metadata

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write the folder under a temporary name, sync it, rename it."""
        folder = Path(path)
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        state = dict(checkpoint)
        save_weights(state.pop("state_dict"), temporary / WEIGHTS, self.metadata)
        tensors: dict[str, Tensor] = {}
        (temporary / RESUME_STATE).write_text(json.dumps(_encode(state, tensors), indent=1), encoding="utf-8")
        save_file(tensors, temporary / RESUME_TENSORS)
        for file in temporary.iterdir():
            _sync(file)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        _sync(folder.parent)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read the folder back.

        Raises:
            RunError: A file is missing or damaged.
        """
        folder = Path(path)
        try:
            tensors = load_file(folder / RESUME_TENSORS)
            state: dict[str, Any] = _decode(
                json.loads((folder / RESUME_STATE).read_text(encoding="utf-8")), tensors
            )
            state["state_dict"] = load_file(folder / WEIGHTS)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise RunError(f"{folder}: the checkpoint is damaged: {error}") from error
        return state

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete the folder."""
        shutil.rmtree(path, ignore_errors=True)


def save_weights(state: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write named tensors as safetensors; the same tensors give the same bytes."""
    # One entry: safetensors writes several in no fixed order.
    header = {"kikimimi": json.dumps(metadata, sort_keys=True)}
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, path, header)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Turn nested state into JSON; tensors go to `tensors`, and what JSON lacks is tagged."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().clone()
        return {"$tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_encode(item, tensors) for item in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _encode(item, tensors) for key, item in value.items()}
        return {"$items": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(_decode(item, tensors) for item in value["$tuple"])
    if "$items" in value:
        return {_decode(k, tensors): _decode(v, tensors) for k, v in value["$items"]}
    return {key: _decode(item, tensors) for key, item in value.items()}


def random_state() -> dict[str, Any]:
    """Return the state of this process's random generators: torch on CPU and CUDA, numpy, Python."""
    state: Any = numpy.random.get_state(legacy=True)
    name, keys, position, has_gauss, gauss = state
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(keys.astype("int64")), int(position), int(has_gauss), float(gauss)],
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set this process's random generators to a saved state."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, gauss))
    random.setstate(state["python"])
