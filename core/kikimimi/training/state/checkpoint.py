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
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors import SafetensorError
from torch import Tensor, distributed as dist
from torch.distributed.tensor import DTensor

from kikimimi.console.terminal import say
from kikimimi.console.words import listing
from kikimimi.errors import DamagedError, KikimimiError, WriteError
from kikimimi.files.hashes import MANIFEST, UNVERIFIED, FileMark, check_files, mark, write_manifest
from kikimimi.files.reading import MEBIBYTE, damaged, file_there, read_json, unreadable
from kikimimi.files.writing import sync, what_to_do, whole_file
from kikimimi.run.folder import checkpoint_folders, checkpoint_step, stray_names
from kikimimi.run.rank import global_rank
from kikimimi.training.state.resume_state import (
    RESUME_STATE,
    check_state,
    decode_state,
    encode_state,
    read_stored,
)
from kikimimi.training.state.stage_form import StageForm
from kikimimi.weights.tensors import (
    check_stage,
    find_set,
    local_rows,
    piece_name,
    sharded,
    stored_tensors,
    write_tensors,
)

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
_IS_DAMAGED = "the checkpoint is damaged: "
_LARGEST_STATE = 256 * MEBIBYTE
_LISTED = "manifest"
"""What the resume state calls the manifest that belongs to it."""


class FolderCheckpointIO(CheckpointIO):
    """Lightning's checkpoint dictionary as a folder.

    Args:
        metadata: Provenance, for the header of weights; `stage` is the stage's name.
        form: What a checkpoint of the stage is like; None holds it against itself alone.

    Attributes:
        failure: Why the last checkpoint could not be written; None where it was. It is not raised at once,
            since all ranks have to stop; see `save_together`.
    """

    def __init__(self, metadata: Mapping[str, Any], form: StageForm | None = None) -> None:
        self.metadata, self._form = metadata, form
        self.failure: str | None = None
        self._chosen: tuple[Path, dict[str, Any]] | None = None

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
        encoded = json.dumps({_LISTED: MANIFEST, **encode_state(state, tensors)}, indent=1)
        ranks = dist.get_world_size() if sharded([*weights.values(), *tensors.values()]) else 1
        rank = dist.get_rank() if ranks > 1 else 0
        marks: dict[str, FileMark] = {}
        self.failure = None

        def begin() -> None:
            for left_over in folder.parent.glob(".step-*"):
                _delete(left_over)  # by a kill
            temporary.mkdir(parents=True)
            (temporary / RESUME_STATE).write_text(encoded, encoding="utf-8")
            sync(temporary / RESUME_STATE)
            marks[RESUME_STATE] = mark(temporary / RESUME_STATE)

        def write() -> None:
            for stem, named, metadata in (
                ("weights", weights, _header(self.metadata)),
                ("resume", tensors, {}),
            ):
                marks.update(_write_part(temporary, stem, named, metadata, rank, ranks))

        def finish() -> None:
            sync(write_manifest(temporary, self._of(folder), marks))
            sync(temporary)
            if os.path.lexists(folder):
                remove_folder(folder)
            temporary.rename(folder)
            sync(folder.parent)

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
            DamagedError: A file is missing or damaged.
        """
        state: dict[str, Any] = read_stored(self.take(path))
        return state

    def take(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Read the folder back, but of the weights and the optimiser's tensors only where they are.

        Of the checkpoint that `newest` has chosen, what was read for that is handed on.

        Raises:
            DamagedError: A file is missing or damaged.
        """
        chosen, self._chosen = self._chosen, None
        return chosen[1] if chosen is not None and chosen[0] == Path(path) else self._read(Path(path))

    def _read(self, folder: Path) -> dict[str, Any]:
        try:
            tensors = stored_tensors(find_set(folder, "resume"))
            encoded = read_json(folder / RESUME_STATE, dict[str, Any], limit=_LARGEST_STATE)
            hashed = encoded.pop(_LISTED, None) is not None
            if hashed and not file_there(folder / MANIFEST):
                raise ValueError(f"{MANIFEST} is missing")
            state: dict[str, Any] = decode_state(encoded, tensors)
            state = {
                name: value if name == "optimizer_states" else read_stored(value)
                for name, value in state.items()
            }
            check_state(state, checkpoint_step(folder), hashed=hashed)
            weights = find_set(folder, "weights")
            state["state_dict"] = stored_tensors(weights)
            check_stage(weights, self.metadata["stage"])
            if self._form is not None:
                self._form.check(state)
        except _DAMAGED as error:
            if isinstance(error, OSError):
                raise unreadable(folder, error, what=_IS_DAMAGED) from error
            said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise damaged(folder, f"{_IS_DAMAGED}{said.removeprefix(f'{folder}/')}") from error
        return state

    def check(self, folder: Path) -> bool:
        """Check a checkpoint against its hashes, and for what a stage goes on from.

        Returns:
            Whether it has hashes: earlier versions wrote none.

        Raises:
            DamagedError: It is damaged, or not of this stage.
        """
        try:
            hashed = check_files(folder, self._of(folder))
        except (OSError, ValueError) as error:
            raise unreadable(folder, error, what=_IS_DAMAGED) from error
        self._chosen = folder, self._read(folder)
        return hashed

    def newest(self, folder: Path) -> Path | None:
        """Return the newest checkpoint of a stage that is sound and fits it; None where there is none at all.

        Every rank looks at all files: whatever is damaged, all of them take the same.

        Args:
            folder: Where the stage's checkpoints are.

        Raises:
            DamagedError: All are damaged.
        """

        def tell(message: str) -> None:
            if global_rank() == 0:
                say(message, error=True)

        if strays := stray_names(folder):
            tell(f"{folder}: passed over, as these are not checkpoints: {listing(strays)}")
        failures = []
        for path in reversed(checkpoint_folders(folder)):
            try:
                hashed = self.check(path)
            except DamagedError as error:
                failures.append(str(error))
                tell(f"warning: {error}")
                continue
            if failures:
                tell(f"warning: going on from {path.name}, the newest that is sound; later steps come again")
            if not hashed:
                tell(f"{path}: {UNVERIFIED}")
            return path
        if failures:
            raise DamagedError(
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
    first = trainer.is_global_zero

    def write() -> None:
        if first:
            for left_over in path.parent.glob(f".{path.name}.*tmp"):
                left_over.unlink()  # by a kill
        place: AbstractContextManager[Path | None] = whole_file(path) if first else nullcontext()
        with place as unfinished:
            write_tensors(unfinished, state, _header(metadata), fetch=_whole, seal=True)
        if first:
            sync(path.parent)

    failure = trainer.strategy.broadcast(_attempt(write, 1))
    if failure is not None:
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
    sync(folder / name)
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
