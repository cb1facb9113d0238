"""Checkpoints without pickle: a folder of safetensors and JSON, written whole or not at all.

step-000400/
    weights.safetensors   what was trained (named parameters)
    resume.safetensors    tensors of the resume state: optimiser, random generators
    resume.json           the rest of it: schedule, loops, data position
    files.json            written last: stage, step, and size and SHA-256 of the others

Of a sharded run, each rank writes the rows that it holds (weights.rank0-of-2.safetensors, ...), and the first
whatever is not sharded. Any number of ranks reads either form.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors import SafetensorError
from torch import Tensor, distributed as dist
from torch.distributed.tensor import DTensor

from kikimimi.console.terminal import say
from kikimimi.console.words import listing
from kikimimi.errors import DamagedError, KikimimiError, RunError, WriteError
from kikimimi.files.hashes import MANIFEST, FileMark, check_files, mark, write_manifest
from kikimimi.files.reading import MEBIBYTE, read_json
from kikimimi.files.writing import what_to_do
from kikimimi.run.folder import checkpoint_folders, checkpoint_step, stray_names
from kikimimi.run.rank import global_rank
from kikimimi.training.log_interval import LogInterval
from kikimimi.weights.tensors import (
    StoredTensor,
    find_set,
    local_rows,
    piece_name,
    sharded,
    stored_tensors,
    write_tensors,
)

RESUME_STATE = "resume.json"
_DAMAGED = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    SafetensorError,
    DamagedError,
)
"""What reading a damaged state may raise: its types are not known before."""
_LARGEST_STATE = 256 * MEBIBYTE
_LISTED = "manifest"
"""What the resume state calls the manifest that belongs to it."""
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
_POSITION = {"consumed", "epoch", "micro_batch", "order"}
_RANDOM = {"torch", "cuda", "numpy", "python"}


class FolderCheckpointIO(CheckpointIO):
    """Lightning's checkpoint dictionary as a folder.

    Attributes:
        failure: Why the last checkpoint could not be written; None where it was. It is not raised at once,
            since all ranks have to stop; see `save_together`.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.failure: str | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write the folder under a temporary name, sync it, rename it.

        Where tensors are sharded, every rank has to call; else one.
        """
        folder = Path(path)
        temporary = folder.with_name(f".{folder.name}.tmp")
        state = dict(checkpoint)
        weights: dict[str, Tensor] = state.pop("state_dict")
        tensors: dict[str, Tensor] = {}
        encoded = json.dumps({_LISTED: MANIFEST, **_encode(state, tensors)}, indent=1)
        ranks = dist.get_world_size() if sharded([*weights.values(), *tensors.values()]) else 1
        rank = dist.get_rank() if ranks > 1 else 0
        marks: dict[str, FileMark] = {}
        self.failure = None

        def begin() -> None:
            for left_over in folder.parent.glob(".step-*"):
                _delete(left_over)  # by a kill
            temporary.mkdir(parents=True)
            (temporary / RESUME_STATE).write_text(encoded, encoding="utf-8")
            _sync(temporary / RESUME_STATE)
            marks[RESUME_STATE] = mark(temporary / RESUME_STATE)

        def write() -> None:
            for stem, named, metadata in (
                ("weights", weights, _header(self.metadata)),
                ("resume", tensors, {}),
            ):
                marks.update(_write_part(temporary, stem, named, metadata, rank, ranks))

        def finish() -> None:
            _sync(write_manifest(temporary, self._of(folder), marks))
            _sync(temporary)
            if folder.exists():
                remove_folder(folder)
            temporary.rename(folder)
            _sync(folder.parent)

        for work, workers in ((begin, 1), (write, ranks), (finish, 1)):
            failure = _attempt(work if rank < workers else None, ranks)
            if failure is not None:
                if rank == 0:
                    shutil.rmtree(temporary, ignore_errors=True)
                self.failure = f"{folder}: the checkpoint could not be written: {failure.reason}. " + _intact(
                    folder.parent, failure.advice
                )
                return
            if work is write and ranks > 1:
                gathered: list[Any] = [None] * ranks
                dist.all_gather_object(gathered, marks)
                marks = {name: item for part in gathered for name, item in part.items()}

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read the folder back, each tensor whole.

        Raises:
            RunError: A file is missing or damaged.
        """
        state: dict[str, Any] = _read_all(self.read(path))
        return state

    def read(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Read the folder back, but of the weights and the optimiser's tensors only where they are.

        Raises:
            RunError: A file is missing or damaged.
        """
        folder = Path(path)
        try:
            tensors = stored_tensors(find_set(folder, "resume"))
            encoded = read_json(folder / RESUME_STATE, dict[str, Any], limit=_LARGEST_STATE)
            hashed = encoded.pop(_LISTED, None) is not None
            if hashed and not (folder / MANIFEST).exists():
                raise ValueError(f"{MANIFEST} is missing")
            state: dict[str, Any] = _decode(encoded, tensors)
            state = {
                name: value if name == "optimizer_states" else _read_all(value)
                for name, value in state.items()
            }
            _check_state(state, checkpoint_step(folder), hashed=hashed)
            state["state_dict"] = stored_tensors(find_set(folder, "weights"))
        except _DAMAGED as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            said = said.removeprefix(f"{folder}/")
            raise RunError(f"{folder}: the checkpoint is damaged: {said}") from error
        return state

    def check(self, folder: Path) -> bool:
        """Check a checkpoint against its hashes, and for what a stage goes on from.

        Returns:
            Whether it has hashes: earlier versions wrote none.

        Raises:
            RunError: It is damaged, or not of this stage.
        """
        try:
            hashed = check_files(folder, self._of(folder))
        except (OSError, ValueError) as error:
            raise RunError(f"{folder}: the checkpoint is damaged: {error}") from error
        self.read(folder)
        return hashed

    def newest(self, folder: Path) -> Path | None:
        """Return the newest checkpoint of a stage that is sound; None where there is none at all.

        Every rank looks at all files: whatever is damaged, all of them take the same.

        Args:
            folder: Where the stage's checkpoints are.

        Raises:
            RunError: All are damaged.
        """
        tell = _tell if global_rank() == 0 else _keep_silent
        if strays := stray_names(folder):
            tell(f"{folder}: passed over, as these are not checkpoints: {listing(strays)}")
        failures = []
        for path in reversed(checkpoint_folders(folder)):
            try:
                hashed = self.check(path)
            except RunError as error:
                failures.append(str(error))
                tell(f"warning: {error}")
                continue
            if failures:
                tell(f"warning: going on from {path.name}, the newest that is sound; later steps come again")
            if not hashed:
                tell(f"{path}: has no hashes, as earlier versions wrote it: taken as it is")
            return path
        if failures:
            raise RunError(
                f"{failures[0]}. There is no other to go on from. Restore it from a copy, or delete "
                f"{folder}: the stage is trained again, from its start"
            )
        return None

    def _of(self, folder: Path) -> dict[str, str | int]:
        return {"stage": self.metadata["stage"], "step": checkpoint_step(folder)}

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Delete the folder."""
        remove_folder(Path(path))


def save_together(trainer: pl.Trainer, folder: Path) -> None:
    """Save a checkpoint; called by every rank.

    Raises:
        KikimimiError: It could not be written, on any rank; raised on all.
    """
    trainer.save_checkpoint(folder, weights_only=False)
    io = trainer.strategy.checkpoint_io
    assert isinstance(io, FolderCheckpointIO)
    if (failure := trainer.strategy.broadcast(io.failure)) is not None:
        raise KikimimiError(failure)


def write_weights(
    trainer: pl.Trainer, path: Path, state: dict[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write what a stage leaves, whole, one tensor after the other; called by every rank.

    Args:
        trainer: The stage's.
        path: The file, written by the first rank.
        state: Named tensors; sharded ones are gathered.
        metadata: Provenance, for the header.

    Raises:
        KikimimiError: It could not be written; raised on all ranks.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    first = trainer.is_global_zero

    def write() -> None:
        if first:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(temporary if first else None, state, _header(metadata), fetch=_whole, seal=True)
        if first:
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)

    failure = trainer.strategy.broadcast(_attempt(write, 1))
    if failure is not None:
        if first:
            temporary.unlink(missing_ok=True)
        raise KikimimiError(
            f"{path}: the weights could not be written: {failure.reason}. {_intact(None, failure.advice)}"
        )


def remove_folder(folder: Path) -> None:
    """Delete a checkpoint: under another name first, so that a kill leaves no half of one."""
    removed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    with suppress(OSError):
        _delete(removed)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _header(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {"kikimimi": json.dumps(metadata, sort_keys=True)}


def _write_part(
    folder: Path, stem: str, tensors: Mapping[str, Tensor], metadata: dict[str, str], rank: int, ranks: int
) -> dict[str, FileMark]:
    """Write what this rank holds of named tensors; return size and hash of its file."""
    held: dict[str, Tensor] = {}
    rows: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        held[name], part = local_rows(tensor)
        if part is not None:
            rows[name] = part
        elif rank > 0:
            del held[name]
    name = piece_name(stem, rank, ranks)
    if rows:
        metadata = {**metadata, "rows": json.dumps(rows, sort_keys=True)}
    written = write_tensors(folder / name, held, metadata)
    _sync(folder / name)
    return {name: written}


class _Failure(NamedTuple):
    reason: str
    advice: str


def _attempt(work: Callable[[], None] | None, ranks: int) -> _Failure | None:
    """Do this rank's part of some work; return why it failed on any rank, or None where all is well."""
    mine: _Failure | None = None
    if work is not None:
        try:
            work()
        except (OSError, WriteError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            mine = _Failure(cause.strerror or str(cause), what_to_do(cause))
    if ranks == 1:
        return mine
    failures: list[_Failure | None] = [None] * ranks
    dist.all_gather_object(failures, mine)
    return next((failure for failure in failures if failure is not None), None)


def _intact(folder: Path | None, advice: str) -> str:
    if folder is None:
        return f"The last checkpoint is intact. {advice}"
    saved = checkpoint_folders(folder)
    if not saved:
        return f"There is none before it. {advice}"
    return f"The one before it, {saved[-1].name}, is intact. {advice}: it goes on from there"


def _read_all(value: Any) -> Any:
    """Replace stored tensors by their values, in memory of their own."""
    if isinstance(value, StoredTensor):
        return value.whole().clone()
    if isinstance(value, dict):
        return {key: _read_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_read_all(item) for item in value)
    return value


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
        tensors[name] = value.detach()
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


def _decode(value: Any, tensors: Mapping[str, StoredTensor]) -> Any:
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


def _check_state(state: Mapping[str, Any], step: int, *, hashed: bool) -> None:
    """Check that a resume state has all that a stage goes on from: what is missing would silently begin anew.

    Args:
        state: Resume state.
        step: Step that the checkpoint is of, by its name.
        hashed: Whether the state is as it was written, by its hash. Only then a parameter may have no
            moments: one that took no part.

    Raises:
        ValueError: Something is missing, or of another step.
        KeyError: Likewise.
        TypeError: Likewise.
    """
    if type(state["global_step"]) is not int or not isinstance(state["pytorch-lightning_version"], str):
        raise ValueError(f"{RESUME_STATE} is not that of a checkpoint")
    if state["global_step"] != step:
        raise ValueError(f"{RESUME_STATE} is of step {state['global_step']}")
    (optimiser,), (schedule,) = state["optimizer_states"], state["lr_schedulers"]
    rates = [float(group["lr"]) for group in optimiser["param_groups"]]
    for group in optimiser["param_groups"]:
        if not all(0 <= float(value) <= 1 for value in (*group["betas"], group["eps"])):
            raise ValueError("the options of its optimiser are damaged")
        if not group["params"] or len(group["betas"]) != 2 or float(group["weight_decay"]) < 0:
            raise ValueError("the options of its optimiser are damaged")
    for moments in optimiser["state"].values():
        if not moments.keys() >= _MOMENTS or not isinstance(moments["exp_avg"], StoredTensor):
            raise ValueError("it lacks the moments of a parameter")
        if getattr(moments["exp_avg_sq"], "shape", None) != moments["exp_avg"].shape:
            raise ValueError("the moments of a parameter do not fit together")
        if not 1 <= float(moments["step"].whole()) <= step:
            raise ValueError("the moments of a parameter are of another step")
    # With fp16, every step until now may have been left out.
    if not rates or not (optimiser["state"] or "MixedPrecision" in state):
        raise ValueError("it lacks the state of the optimiser")
    numbers = [number for group in optimiser["param_groups"] for number in group["params"]]
    if numbers != list(range(len(numbers))) or not optimiser["state"].keys() <= set(numbers):
        raise ValueError("the parameters of its optimiser are damaged")
    if not hashed and optimiser["state"] and len(optimiser["state"]) < len(numbers):
        raise ValueError("it lacks the moments of a parameter")
    if not len(schedule["base_lrs"]) == len(schedule["_last_lr"]) == len(rates):
        raise ValueError("its schedule is not that of its optimiser")
    if not type(schedule["last_epoch"]) is type(schedule["_step_count"]) is int:
        raise ValueError("it lacks the step of the schedule")
    if not isinstance(state["callbacks"], dict):
        raise ValueError("the states of its callbacks are damaged")
    loops = state["loops"]["fit_loop"]
    (position,) = loops["state_dict"]["combined_loader"]
    if not position.keys() >= _POSITION or not loops["epoch_loop.batch_progress"]["total"]:
        raise ValueError("it lacks the position in the data")
    _check_progress(state["loops"])
    LogInterval().restore(state["unlogged"], 0, len(state["unlogged"]))
    if not all([*map(type, counts)] == [int] * 3 for counts in state["faults"]):
        raise ValueError("its counts of faults are damaged")
    ranks = {len(state[name]) for name in ("random", "faults", "unlogged")}
    if len(ranks) != 1 or ranks == {0}:
        raise ValueError("its random generators, faults and log are not of the same ranks")
    for generators in state["random"]:
        if not generators.keys() >= _RANDOM:
            raise ValueError("it lacks the state of random generators")
        try:  # on generators of no use
            torch.Generator().set_state(generators["torch"])
            numpy.random.RandomState().set_state(_numpy_state(generators["numpy"]))
            random.Random().setstate(generators["python"])
        except (AttributeError, IndexError, OverflowError, RuntimeError) as error:
            raise ValueError(f"the state of its random generators is damaged: {error}") from error


def check_fits(state: Mapping[str, Any], optimiser: torch.optim.Optimizer, loops: Mapping[str, Any]) -> None:
    """Check that a resume state is one of this training: of its optimiser, its schedule and its loops.

    Args:
        state: Resume state.
        optimiser: Optimiser of the stage, as it begins, with its schedule.
        loops: Loops of the trainer, as they begin.

    Raises:
        RunError: It is not.
    """
    (saved,), groups = state["optimizer_states"], optimiser.param_groups
    moments = [moment["exp_avg"].shape for _, moment in sorted(saved["state"].items())]
    shapes = [parameter.shape for group in groups for parameter in group["params"]]
    if (
        [len(group["params"]) for group in saved["param_groups"]]
        != [len(group["params"]) for group in groups]
        or [_options(group) for group in saved["param_groups"]] != [*map(_options, groups)]
        or moments != [shapes[number] for number in sorted(saved["state"])]
    ):
        what = "optimiser"
    elif state["lr_schedulers"][0]["base_lrs"] != [group["initial_lr"] for group in groups]:
        what = "schedule"
    elif not _of_form(state["loops"]["fit_loop"], loops):
        what = "loops"
    else:
        return
    raise RunError(
        f"the checkpoint of step {state['global_step']} is damaged: its {what} is not that of this stage. "
        "Restore it from a copy, or delete it: the stage goes on from the one before it"
    )


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an optimiser's group that do not change while it trains."""
    names = ("name", "initial_lr", "weight_decay", "betas", "eps", "amsgrad", "maximize", "capturable")
    return {name: group.get(name) for name in names}


def _of_form(saved: Any, fresh: Any) -> bool:
    """Tell whether saved counts have all that fresh ones have; where the data stands is checked elsewhere."""
    if not isinstance(fresh, Mapping):
        return type(saved) is type(fresh)
    return isinstance(saved, Mapping) and all(
        name in saved and _of_form(saved[name], value)
        for name, value in fresh.items()
        if name != "state_dict"
    )


def _check_progress(loops: Mapping[str, Any]) -> None:
    """Check that Lightning's loops hold counts where they count."""
    for name, value in loops.items():
        if name in ("total", "current"):
            if {*map(type, value.values())} != {int}:
                raise ValueError("the counts of its loops are damaged")
        elif isinstance(value, dict) and not name.endswith("state_dict"):
            _check_progress(value)


def _tell(message: str) -> None:
    say(message, error=True)


def _keep_silent(message: str) -> None:
    pass


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
    numpy.random.set_state(_numpy_state(state["numpy"]))
    random.setstate(state["python"])


def _numpy_state(state: list[Any]) -> tuple[str, Any, int, int, float]:
    name, keys, position, has_gauss, gauss = state
    return name, keys.numpy().astype("uint32"), position, has_gauss, gauss
