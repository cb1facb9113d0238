"""Verifying a run folder: everything in it that is read again, against its hashes and its form."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kikimimi.console.terminal import visible
from kikimimi.contracts.batch import Fault
from kikimimi.errors import KikimimiError, RunError
from kikimimi.evaluation.predictions import read_predictions
from kikimimi.evaluation.record import RECORD, read_scorings
from kikimimi.evaluation.score import read_scores
from kikimimi.evaluation.similarity import FILE, read_similarities
from kikimimi.files.hashes import check_seal, require_files
from kikimimi.files.reading import read_json_lines
from kikimimi.model.assembly import ASSETS_REMEDY
from kikimimi.run.drift import recipe_change
from kikimimi.run.folder import RunFolder, checkpoint_folders, stray_names
from kikimimi.run.lock import held_lock, read_lock
from kikimimi.run.metrics import read_metrics
from kikimimi.training.state.checkpoint import FolderCheckpointIO
from kikimimi.weights.tensors import stored_tensors

_UNHASHED = "has no hash, as earlier versions wrote it"


@dataclass(frozen=True)
class CheckedItem:
    """Something in a run folder.

    Attributes:
        name: Its path in the folder.
        problem: What is wrong with it, and what to do; empty where it is sound.
        note: What else there is to say.
    """

    name: str
    problem: str = ""
    note: str = ""

    def __str__(self) -> str:
        said = self.problem or self.note
        return visible(f"{'damaged' if self.problem else 'ok':<9}{self.name}{f': {said}' if said else ''}")


def check_run(path: Path) -> list[CheckedItem]:
    """Check a run folder.

    Args:
        path: The folder.

    Returns:
        All that was looked at: recipe, lock, assets, checkpoints, weights, evaluations, metrics, faults.

    Raises:
        RunError: It is no run folder.
    """
    if not (path / "recipe.yaml").exists():
        RunFolder.open(path)  # says why it is none
    return list(_items(path))


def _items(path: Path) -> Iterator[CheckedItem]:
    run: RunFolder | None = None
    try:
        run = RunFolder.open(path)
        yield CheckedItem("recipe.yaml")
    except KikimimiError as error:
        yield CheckedItem("recipe.yaml", _said(error, path / "recipe.yaml"))
    if run is not None:
        yield _lock(run)
        if run.assets.is_dir():
            yield _item(path, run.assets, partial(require_files, run.assets, ASSETS_REMEDY))
    for folder in sorted((path / "checkpoints").glob("*/")):
        yield from _checkpoints(path, folder)
    for file in sorted((path / "weights").glob("*.safetensors")):
        yield _tensors(
            path,
            file,
            "Restore it from a copy, or delete it: 'kikimimi train' makes it again from the stage's last "
            "checkpoint, or where there is none trains the stage again",
        )
    for folder in sorted((path / "evaluations").glob("*/")):
        yield from _evaluation(path, folder)
    if (path / "metrics.jsonl").exists():
        yield _item(path, path / "metrics.jsonl", partial(read_metrics, path / "metrics.jsonl"))
    for file in sorted((path / "faults").glob("*.jsonl")):
        yield _item(path, file, partial(read_json_lines, file, Fault, remedy="Delete it"))


def _lock(run: RunFolder) -> CheckedItem:
    file = run.path / "lock.json"
    try:
        if held_lock(run) is None:
            return CheckedItem("lock.json", note="is not there: the next 'kikimimi train' writes it")
        changed = recipe_change(read_lock(file, [])[1], run.recipe)
    except KikimimiError as error:
        return CheckedItem("lock.json", _said(error, file))
    if changed:
        return CheckedItem(
            "lock.json",
            f"recipe.yaml is not the recipe that was locked ({changed}: in the lock, and in recipe.yaml). "
            "Restore the one of them that was changed",
        )
    return CheckedItem("lock.json")


def _checkpoints(path: Path, folder: Path) -> Iterator[CheckedItem]:
    saved, io = checkpoint_folders(folder), FolderCheckpointIO({"stage": folder.name})
    for number, checkpoint in enumerate(saved):
        name = str(checkpoint.relative_to(path))
        try:
            yield CheckedItem(name, note="" if io.check(checkpoint) else _UNHASHED)
        except RunError as error:
            advice = "the stage is trained again"
            if number < len(saved) - 1:
                advice = "there is a newer one"
            elif number:
                advice = f"training goes on from {saved[number - 1].name}"
            said = f"{_said(error, checkpoint)}. Restore it from a copy, or delete it: {advice}"
            yield CheckedItem(name, said)
    for file in sorted((folder / "best").glob("step-*.safetensors")):
        yield _tensors(path, file, "Restore it from a copy, or train the stage again")
    for name in stray_names(folder):
        yield CheckedItem(str((folder / name).relative_to(path)), note="is not a checkpoint: passed over")


def _tensors(path: Path, file: Path, remedy: str) -> CheckedItem:
    name = str(file.relative_to(path))
    try:
        sealed = check_seal(file)
        stored_tensors(file)
    except (OSError, ValueError) as error:
        return CheckedItem(name, f"{error}. {remedy}")
    return CheckedItem(name, note="" if sealed else _UNHASHED)


def _evaluation(path: Path, folder: Path) -> Iterator[CheckedItem]:
    for file in sorted(folder.glob("*.jsonl")):
        yield _item(path, file, partial(read_predictions, file))
    for name, read in (
        ("scores.json", partial(read_scores, folder / "scores.json")),
        (RECORD, partial(read_scorings, folder)),
        (FILE, partial(read_similarities, folder)),
    ):
        if (folder / name).exists():
            yield _item(path, folder / name, read)


def _item(path: Path, file: Path, read: Callable[[], object]) -> CheckedItem:
    try:
        read()
    except KikimimiError as error:
        return CheckedItem(str(file.relative_to(path)), _said(error, file))
    return CheckedItem(str(file.relative_to(path)))


def _said(error: Exception, file: Path) -> str:
    """Return what an error says, without the path that stands before it in the table."""
    return str(error).removeprefix(f"{file}").lstrip(f":{os.sep} ")
