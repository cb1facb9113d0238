"""Verifying a run folder: everything in it that is read again, against its hashes and its form."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from kikimimi.console.terminal import visible
from kikimimi.contracts.batch import Fault
from kikimimi.costs.shapes import shapes_only
from kikimimi.errors import DamagedError, KikimimiError
from kikimimi.evaluation.predictions import read_predictions
from kikimimi.evaluation.record import RECORD, read_scorings
from kikimimi.evaluation.score import read_scores
from kikimimi.evaluation.similarity import FILE, read_similarities
from kikimimi.files.hashes import ASSETS_REMEDY, UNVERIFIED, require_files
from kikimimi.files.reading import file_there, folder_there, paths_in, read_json_lines
from kikimimi.files.writing import what_to_do
from kikimimi.guards.record import GUARDS_FILE, read_guards
from kikimimi.model.assembly import assemble
from kikimimi.model.trainable import kept_names, require_stored, trainable_names
from kikimimi.recipe import IMPORTED
from kikimimi.run.drift import recipe_change
from kikimimi.run.folder import RunFolder, checkpoint_folders, stray_names
from kikimimi.run.lock import held_lock, read_lock
from kikimimi.run.metrics import read_metrics
from kikimimi.training.state.checkpoint import FolderCheckpointIO
from kikimimi.training.state.stage_form import StageForm


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
        All that was looked at: recipe, lock, assets, checkpoints, weights, evaluations, guards, metrics,
        faults.

    Raises:
        RunError: It is no run folder.
    """
    RunFolder.require(path)
    return list(_items(path))


def _items(path: Path) -> Iterator[CheckedItem]:
    run: RunFolder | None = None
    try:
        run = RunFolder.open(path, read_lock=True)
        yield CheckedItem("recipe.yaml")
    except (KikimimiError, OSError) as error:
        yield CheckedItem("recipe.yaml", _said(error, path / "recipe.yaml"))
    if run is not None:
        yield _lock(run)
        if os.path.lexists(run.assets):
            yield _assets(run)
    yield from _each(path, "checkpoints", "*", partial(_checkpoints, path, run))
    yield from _each(path, "weights", "*.safetensors", partial(_weights, path, run))
    yield from _each(path, "evaluations", "*", partial(_evaluation, path))
    if run is not None and os.path.lexists(path / GUARDS_FILE):
        yield _item(path, path / GUARDS_FILE, partial(read_guards, run))
    if os.path.lexists(metrics := path / "metrics.jsonl"):
        yield _item(path, metrics, partial(read_metrics, metrics))
    for name in ("metrics.csv", "report.html"):  # nothing reads them, and they have to be made again
        if os.path.lexists(file := path / name):
            yield _item(path, file, partial(file_there, file, "Delete it: it is made again"))
    yield from _each(path, "faults", "*.jsonl", partial(_fault_list, path))


def _each(
    path: Path, place: str, pattern: str, look: Callable[[Path], Iterable[CheckedItem]]
) -> Iterator[CheckedItem]:
    """Look at what is in a folder of the run; what the system refuses to show is a problem of its own."""
    folders = pattern == "*"
    try:
        found = paths_in(path / place, pattern) if folder_there(path / place) else []
    except (OSError, DamagedError) as error:
        yield CheckedItem(place, _said(error, path / place))
        return
    for file in found:
        try:
            if not folders or (not file.is_file() and folder_there(file)):
                yield from look(file)
        except (OSError, DamagedError) as error:
            yield CheckedItem(str(file.relative_to(path)), _said(error, file))


def _lock(run: RunFolder) -> CheckedItem:
    file = run.path / "lock.json"
    try:
        if held_lock(run) is None:
            return CheckedItem("lock.json", note="is not there: the next 'kikimimi train' writes it")
        changed = recipe_change(read_lock(file, [])[1], run.recipe)
    except (KikimimiError, OSError) as error:
        return CheckedItem("lock.json", _said(error, file))
    if changed:
        return CheckedItem(
            "lock.json",
            f"recipe.yaml is not the recipe that was locked ({changed}: in the lock, and in recipe.yaml). "
            "Restore the one of them that was changed",
        )
    return CheckedItem("lock.json")


def _assets(run: RunFolder) -> CheckedItem:
    try:
        sealed = run.has_assets and require_files(run.assets, ASSETS_REMEDY)
    except (KikimimiError, OSError) as error:
        return CheckedItem(run.assets.name, _said(error, run.assets))
    return CheckedItem(run.assets.name, note="" if sealed else UNVERIFIED)


def _form(run: RunFolder | None, folder: Path) -> tuple[StageForm | None, str]:
    """Return what checkpoints of a stage have to be like; where that cannot be told, None and why."""
    stage = folder.name
    if run is None or stage not in run.recipe.stages or not checkpoint_folders(folder):
        return None, ""
    recipe, options = run.recipe.at(stage), run.recipe.stages[stage]
    try:
        with shapes_only(), torch.device("meta"):
            model = assemble(recipe, assets=run.assets, load_weights=False, measured=True)
        trained = trainable_names(model, options, where=f"stages.{stage}", check_dtype=False)
    except KikimimiError as error:
        return None, f"its weights and optimiser are not held against those of the stage: {error}"
    return StageForm.of(model, options, trained, kept_names(model, recipe, stage)), ""


def _checkpoints(path: Path, run: RunFolder | None, folder: Path) -> Iterator[CheckedItem]:
    form, unknown = _form(run, folder)
    saved, io = checkpoint_folders(folder), FolderCheckpointIO({"stage": folder.name}, form)
    for number, checkpoint in enumerate(saved):
        name = str(checkpoint.relative_to(path))
        try:
            unhashed = "" if io.check(checkpoint) else UNVERIFIED
        except OSError as error:
            yield CheckedItem(name, _said(error, checkpoint))
        except DamagedError as error:
            advice = "the stage is trained again"
            if number < len(saved) - 1:
                advice = "there is a newer one"
            elif number:
                advice = f"training goes on from {saved[number - 1].name}"
            said = f"{_said(error, checkpoint)}. Restore it from a copy, or delete it: {advice}"
            yield CheckedItem(name, said)
        else:
            yield CheckedItem(name, note="; ".join(filter(None, (unhashed, unknown))))
    yield from _each(
        path,
        str((folder / "best").relative_to(path)),
        "step-*.safetensors",
        partial(_tensors, path, stage=folder.name, remedy="Restore it from a copy, or train the stage again"),
    )
    for name in stray_names(folder):
        yield CheckedItem(str((folder / name).relative_to(path)), note="is not a checkpoint: passed over")


def _weights(path: Path, run: RunFolder | None, file: Path) -> Iterator[CheckedItem]:
    """Look at what a stage has left: of its name, or of that and the length that it had."""
    names = [] if run is None else [*run.recipe.stages, IMPORTED]
    # No other stage's name begins with one's and a dot: recipes refuse it.
    yield from _tensors(path, file, next((name for name in names if file.name.startswith(f"{name}.")), None))


def _tensors(path: Path, file: Path, stage: str | None, remedy: str = "") -> Iterator[CheckedItem]:
    name = str(file.relative_to(path))
    try:
        sealed = require_stored(file, stage, remedy)
    except (KikimimiError, OSError) as error:
        yield CheckedItem(name, _said(error, file))
    else:
        yield CheckedItem(name, note="" if sealed else UNVERIFIED)


def _evaluation(path: Path, folder: Path) -> Iterator[CheckedItem]:
    for file in paths_in(folder, "*.jsonl"):
        yield _item(path, file, partial(read_predictions, file))
    for name, read in (
        ("scores.json", partial(read_scores, folder / "scores.json")),
        (RECORD, partial(read_scorings, folder)),
        (FILE, partial(read_similarities, folder)),
    ):
        if os.path.lexists(folder / name):
            yield _item(path, folder / name, read)


def _fault_list(path: Path, file: Path) -> Iterator[CheckedItem]:
    yield _item(path, file, partial(read_json_lines, file, Fault, remedy="Delete it"))


def _item(path: Path, file: Path, read: Callable[[], object]) -> CheckedItem:
    try:
        read()
    except (KikimimiError, OSError) as error:
        return CheckedItem(str(file.relative_to(path)), _said(error, file))
    return CheckedItem(str(file.relative_to(path)))


def _said(error: Exception, file: Path) -> str:
    """Return what an error says, without the path that stands before it in the table."""
    if isinstance(error, OSError):
        inside = Path(str(error.filename)).name if error.filename not in (None, str(file), file) else ""
        said = f"{inside}: cannot be read" if inside else "cannot be read"
        return f"{said}: {error.strerror}. {what_to_do(error, reading=True)}"
    return str(error).removeprefix(f"{file}").lstrip(f":{os.sep} ")
