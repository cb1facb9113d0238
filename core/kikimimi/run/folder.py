"""A run on disk: everything that a training run leaves behind, and needs to go on.

recipe.yaml               resolved, complete
lock.json                 what it was made of
assets/llm/               tokenizer built from the data, if any
metrics.jsonl, .csv       one line per log interval
faults/STAGE.jsonl        records that were left out, and why; of rank 1 STAGE.rank1.jsonl
checkpoints/STAGE/        the newest checkpoints of a stage (weights and resume state)
checkpoints/STAGE/best/   weights of its lowest validation losses, where the recipe keeps them
weights/STAGE.safetensors what a finished stage leaves; `imported`: a published model before any
evaluations/NAME/         predictions, scores, a record of the settings that gave them, and how similar audio
                          tokens are to words
guards.json               what training may have cost the LLM, and the answers that say so
report.html               all of it to look at
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kikimimi.console.terminal import json_text, say
from kikimimi.console.words import counted, listing, nearest
from kikimimi.errors import RunError, WriteError
from kikimimi.files.hashes import (
    ASSETS_REMEDY,
    CHECKPOINT_REMEDY,
    IMPORT_REMEDY,
    MANIFEST,
    UNVERIFIED,
    WEIGHTS_REMEDY,
    content_mark,
    mark,
    write_manifest,
)
from kikimimi.files.reading import (
    MEBIBYTE,
    damaged,
    file_there,
    folder_there,
    paths_in,
    read_json,
    read_text,
)
from kikimimi.files.writing import check_target, whole_file, whole_folder, writing
from kikimimi.files.yaml_text import parse_yaml
from kikimimi.recipe import IMPORTED, Recipe, load_recipe, to_yaml
from kikimimi.recipe.chosen import PARTS
from kikimimi.run.drift import HARDWARE, as_begun, newer_options, recipe_change, text_changes
from kikimimi.run.made_with import MadeWith, tell_difference
from kikimimi.run.rank import global_rank

if TYPE_CHECKING:
    from kikimimi.model.speech_lm import SpeechLM

_FOLDER_REMEDY = "Put back what it leads to, or delete it"
_LOCKED_TEXT = "lock.json has its text, under recipe.yaml"
_RECIPE_REMEDY = "Restore it from a copy; lock.json has its text, too, under recipe.yaml"
_CHECKPOINTS_REMEDY = "Put back what it leads to, or delete it: the stage is trained again"
LONGEST_NAME = 80
_HOLDER = 300  # bytes that say which process holds a run
_CHECKPOINT = re.compile(r"step-\d{8,}", re.ASCII)
LENGTHS = ("steps", "epochs")
"""Options that say how long a stage is."""
_BEGUN = ("metrics.jsonl", "checkpoints", "weights")  # any of them is there from the first step on


def run_name(recipe_name: str, overrides: Sequence[str]) -> str:
    """Return the name of a run's folder: the recipe's, and what the command line changed."""
    changes = [o for o in overrides if not o.startswith("name=")]
    if not changes:
        return recipe_name
    changes.sort(key=lambda change: change.partition("=")[0])  # of one option, the last change holds
    given = ",".join(changes)
    tag = re.sub(r"[^A-Za-z0-9.,=+-]+", "_", given)
    # What no folder's name can hold is told apart by a hash: two variations never share a folder.
    mark = sha256("\n".join(changes).encode()).hexdigest()[:12]
    if len(tag) > LONGEST_NAME:
        tag = mark
    elif tag != given or given.count(",") != len(changes) - 1:
        tag = f"{tag}-{mark}"
    return f"{recipe_name}--{tag}"


class RunFolder:
    """An existing run folder; see `create` and `open`."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path = path
        self.recipe = recipe

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> RunFolder:
        """Make the folder, or take up the one that is there if it is of the same recipe.

        A run that stopped before its first step, because something that its recipe names was missing, takes
        the mended recipe.

        Raises:
            RunError: The folder holds a run of another recipe, or something else.
        """
        if file_there(path / "recipe.yaml", _RECIPE_REMEDY):
            held, wanted = _held_recipe(path), to_yaml(recipe)
            if held != wanted and not cls(path, recipe).begun:
                return cls._begin(path, recipe)
            recipe = as_begun(recipe, held)
            if changed := recipe_change(cls.open(path).recipe, recipe):
                of_evaluation = (
                    f" An evaluation is changed without training: kikimimi evaluate {path} --from RECIPE"
                )
                raise RunError(
                    f"{path} holds a run of another recipe ({changed}). "
                    "Choose another --out, or move that folder away."
                    + (of_evaluation if changed.startswith("evaluate.") else "")
                )
            return cls(path, recipe)
        # Hidden files: another rank of the same training may have begun already.
        if path.exists() and (not path.is_dir() or any(f.name[0] != "." for f in path.iterdir())):
            raise RunError(f"{path} exists and is not a run folder (it has no recipe.yaml)")
        return cls._begin(path, recipe)

    @classmethod
    def _begin(cls, path: Path, recipe: Recipe) -> RunFolder:
        if folder_there(path / "assets", ASSETS_REMEDY):
            shutil.rmtree(path / "assets")  # a tokenizer of data that the recipe may no longer name
        run = cls(path, recipe)
        run.write_recipe(recipe)
        return run

    @classmethod
    def open(cls, path: Path, overrides: Sequence[str] = (), *, read_lock: bool = False) -> RunFolder:
        """Open a run folder; overrides may change where and how it goes on, which is `HARDWARE` alone.

        Args:
            path: The folder.
            overrides: Changes to the recipe.
            read_lock: The lock is read next, and an error tells of it where it is damaged: not said here.

        Raises:
            RunError: It is not one, or the overrides change what is trained.
        """
        cls.require(path)
        file_there(path / "recipe.yaml", _RECIPE_REMEDY)
        made_with = MadeWith.read(path / "lock.json")
        run = cls(path, recipe := cls._recipe(path, made_with))
        lines = [*made_with.differences(), *run._edits(made_with.recipe)]
        if made_with.damage and not read_lock:
            lines.append(made_with.damage)
        if os.path.lexists(run.assets) and not os.path.lexists(run.assets / MANIFEST):
            lines.append(f"{run.assets.name} {UNVERIFIED}")
        for line in lines:
            tell_difference(path, line)
        if not overrides:
            return run
        wanted = cls._recipe(path, made_with, overrides)
        if changed := recipe_change(recipe, wanted):
            raise RunError(
                f"{path} keeps its recipe ({changed}). It can go on with another "
                f"{', '.join(f'trainer.{name}' for name in HARDWARE)}. To change something else, train the "
                f"recipe: kikimimi train RECIPE.yaml {' '.join(overrides)}. To lengthen a "
                f"finished stage: kikimimi train {path} stages.NAME.steps=N --extend"
            )
        return cls(path, wanted)

    def _edits(self, locked: str) -> Iterator[str]:
        """Yield in a line what of the recipe that the run holds is not as it was locked, if anything is."""
        held = _held_recipe(self.path)
        if not locked or locked == held or not self.begun:
            return
        changes = text_changes(locked, held)
        before = {change.item: change.locked for change in changes}
        for stage, option in itertools.product(self.recipe.stages, LENGTHS):
            length = before.get(f"stages.{stage}.{option}")
            if isinstance(length, int) and self.weights_before(stage, f"{length}-{option}").is_file():
                return  # it is being lengthened, and its lock is written next
        if changes:
            more = f" (and {counted(len(changes) - 1, 'other')})" if len(changes) > 1 else ""
            yield f"recipe.yaml is not the recipe that was locked: {changes[0]}{more}. {_LOCKED_TEXT}"

    @staticmethod
    def require(path: Path) -> None:
        """Check that something is a run folder, of which nothing is read.

        Raises:
            RunError: It is none.
        """
        if not path.exists():
            raise RunError(f"{path}: no such run folder.{_guess(path)}")
        if not path.is_dir():
            raise RunError(f"{path} is a file. A run folder is what 'kikimimi train RECIPE.yaml' makes")
        try:
            os.lstat(path / "recipe.yaml")
        except FileNotFoundError as error:
            raise RunError(f"{path} is not a run folder (it has no recipe.yaml)") from error

    def check_targets(self, stage: str) -> None:
        """Check that folders of the run that are there take what a stage is to write, before the work.

        Raises:
            WriteError: The system refuses, or a folder or a pipe has the name of a file that is written last.
            DamagedError: One of them is a link that leads nowhere, or no folder.
        """
        checkpoints = self.checkpoints(stage)
        for folder in (
            self.weights(stage).parent,
            checkpoints.parent,
            checkpoints,
            checkpoints / "best",
            self.faults(stage).parent,
        ):
            if folder_there(folder, _FOLDER_REMEDY):  # else it is made when something is written
                check_target(folder / "target")
        check_target(self.metrics.with_suffix(".csv"))

    @staticmethod
    def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read the recipe that a run folder holds, with changes.

        Raises:
            DamagedError: It is damaged.
            RecipeError: The changes are wrong.
        """
        return RunFolder._recipe(path, MadeWith.read(path / "lock.json"), overrides)

    @staticmethod
    def _recipe(path: Path, made_with: MadeWith, overrides: Sequence[str] = ()) -> Recipe:
        held = _held_recipe(path)
        if made_with.recipe.rstrip() != held.rstrip() and made_with.recipe.startswith(held.rstrip()):
            raise damaged(path / "recipe.yaml", "is cut short: lock.json has more of it", _RECIPE_REMEDY)
        with made_with.reading(path):
            return as_begun(load_recipe(path / "recipe.yaml", overrides), held)

    def write_recipe(self, recipe: Recipe) -> None:
        """Write the recipe that the run holds, whole or not at all."""
        with whole_file(self.path / "recipe.yaml") as unfinished:
            unfinished.write_text(to_yaml(recipe), encoding="utf-8")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training this run; the other ranks of the same training are let in.

        Raises:
            RunError: Another process holds it.
        """
        with self._held(self.path / ".lock", f"{self.path} is being trained"):
            yield

    @contextmanager
    def evaluating(self, *, wait: bool = False) -> Iterator[None]:
        """Keep other processes from scoring this run, so that none writes between another's lines.

        Args:
            wait: Wait for another process, in place of an error.

        Raises:
            RunError: Another process scores it.
        """
        path = self.path / "evaluations" / ".lock"
        folder_there(path.parent, _FOLDER_REMEDY)
        with writing(path):
            path.parent.mkdir(exist_ok=True)
        with self._held(path, f"{self.path} is being evaluated", wait=wait):
            yield

    @contextmanager
    def _held(self, path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
        if global_rank():
            yield
            return
        with writing(path):
            held = path.open("a+b", buffering=0)  # closing it writes nothing that the system has refused
        with held as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = file.read(_HOLDER).decode("utf-8", errors="replace")
                told = f"{what} by another process ({holder or 'not known'})"
                if not wait:
                    raise RunError(f"{told}. Wait for it, or stop it") from error
                say(f"{told}: waiting for it", error=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            with writing(path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            try:
                yield  # the lock goes with the file, whatever ends the process
            finally:
                with suppress(OSError):  # the name of who held it has no meaning any more
                    file.truncate(0)

    def is_locked(self) -> bool:
        """Whether some process is training this run."""
        if not (self.path / ".lock").is_file():
            return False
        with (self.path / ".lock").open(encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    @property
    def begun(self) -> bool:
        """Whether a stage has begun: before, nothing of it is lost by beginning anew."""
        return any(os.path.lexists(self.path / name) for name in _BEGUN)

    def kept_options(self, stages: Collection[str]) -> dict[str, Any]:
        """Return the options that there were not when it began, and how it goes on as if there still were
        none: of some stages and of evaluations, by their names there, where they change anything.
        """
        kept = {}
        for name, option in newer_options(self.recipe, _held_recipe(self.path)).items():
            section, _, rest = name.partition(".")
            key, _, inner = rest.partition(".")
            if "before" not in option.metadata or (section == "stages" and key not in stages):
                continue
            before = option.metadata["before"]
            if inner == "optimiser.decay_norm_and_bias" and not self.recipe.stages[key].decays:
                continue
            if section == "evaluate" and before == self.recipe.trainer.precision:
                continue
            kept[f"evaluate.{inner}" if section == "evaluate" else inner] = before
        return kept

    @property
    def assets(self) -> Path:
        """Where components keep what is not weights."""
        return self.path / "assets"

    @property
    def has_assets(self) -> bool:
        """Whether components have written theirs, as they do before the first step.

        Raises:
            DamagedError: They are damaged.
        """
        return folder_there(self.assets, ASSETS_REMEDY)

    def save_assets(self, model: SpeechLM) -> None:
        """Let each part of a model write its assets; every rank may call it, and the first one's are kept."""
        try:
            with whole_folder(self.assets) as unfinished:
                for part in PARTS:
                    (unfinished / part).mkdir()
                    getattr(model, part).save_assets(unfinished / part)
                files = [path for path in sorted(unfinished.rglob("*")) if path.is_file()]
                marks = {str(path.relative_to(unfinished)): mark(path) for path in files}
                write_manifest(unfinished, {}, marks)
        except (OSError, WriteError):
            if not self.has_assets:  # another rank was first, with the same
                raise

    @property
    def metrics(self) -> Path:
        """The metrics file."""
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    def checkpoints(self, stage: str) -> Path:
        """Where a stage's checkpoints are."""
        return self.path / "checkpoints" / stage

    def weights(self, stage: str) -> Path:
        """What a finished stage leaves."""
        return self.path / "weights" / f"{stage}.safetensors"

    def weights_before(self, stage: str, length: str) -> Path:
        """What a stage left that was lengthened since, by the length that it had: ``4-steps``."""
        return self.weights(stage).with_name(f"{stage}.{length}.safetensors")

    def faults(self, stage: str, rank: int = 0) -> Path:
        """Where the records are listed that a stage leaves out, as a rank met them."""
        return self.path / "faults" / (f"{stage}.rank{rank}.jsonl" if rank else f"{stage}.jsonl")

    def all_faults(self, stage: str) -> list[Path]:
        """Return the lists of every rank that met any.

        Raises:
            DamagedError: Where they lie is a link that leads nowhere, or no folder.
        """
        folder_there(self.faults(stage).parent, _FOLDER_REMEDY)
        # No other stage's name begins with this one's and a dot: recipes refuse it.
        return paths_in(self.faults(stage).parent, f"{stage}.*jsonl")

    def evaluation(self, name: str) -> Path:
        """Where an evaluation's predictions are."""
        return self.path / "evaluations" / name

    @staticmethod
    def require_folder(folder: Path) -> None:
        """Check that a folder of the run, and the one that it lies in, are folders where they are there.

        Raises:
            DamagedError: One of them is a link that leads nowhere, or no folder.
        """
        for place in (folder.parent, folder):
            folder_there(place, _FOLDER_REMEDY)

    def finished(self, stage: str) -> bool:
        """Whether a stage is done.

        Raises:
            DamagedError: What it has left is a link that leads nowhere, or no file.
        """
        weights = self.weights(stage)
        remedy = IMPORT_REMEDY if stage == IMPORTED else WEIGHTS_REMEDY
        return folder_there(weights.parent, _FOLDER_REMEDY) and file_there(weights, remedy)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, whole or not at all."""
        path = self.path / name
        with whole_file(path) as unfinished:
            unfinished.write_text(json_text(value, indent=2) + "\n", encoding="utf-8")

    def read_json(self, name: str, kind: Any = Any, *, remedy: str = "") -> Any:
        """Read a JSON file of the run, or None where there is none.

        Args:
            name: Path in the run folder.
            kind: What it holds.
            remedy: What people can do about a damaged file.

        Raises:
            DamagedError: It is damaged.
        """
        path = self.path / name
        if not file_there(path, remedy):
            return None
        return read_json(path, kind, limit=64 * MEBIBYTE, remedy=remedy)

    def newest_weights(self, stage: str | None = None) -> tuple[str, Path]:
        """Return the newest trained weights, and their stage.

        Args:
            stage: What this stage left, or has reached; None is the last stage that left or reached any, or
                the published model that was imported.

        Raises:
            RunError: Nothing was trained yet, or there is no such stage.
            DamagedError: The newest checkpoint lacks its weights.
        """
        from kikimimi.weights.tensors import find_set

        stages = self.recipe.stages
        if stage is not None and stage not in (*stages, IMPORTED):
            raise RunError(
                f"{self.path}: no stage is called '{stage}'.{nearest(stage, stages)} "
                f"Stages: {listing(stages)}"
            )
        for name in [stage] if stage is not None else [*reversed(stages), IMPORTED]:
            if self.finished(name):
                return name, self.weights(name)
            if saved := checkpoint_folders(self.checkpoints(name)):
                weights = find_set(saved[-1], "weights")
                if not file_there(weights, CHECKPOINT_REMEDY):
                    raise damaged(weights, "is missing", CHECKPOINT_REMEDY)
                return name, weights
        what = "nothing was" if stage is None else f"stage '{stage}' was not"
        raise RunError(f"{self.path}: {what} trained yet. Go on with: kikimimi train {self.path}")

    def start_weights(self, stage: str) -> tuple[str, Path] | None:
        """Return what a stage starts from, and whose it is; None where it starts from the sources alone."""
        before = self.recipe.start_of(stage)
        if before is None and self.finished(IMPORTED):
            before = IMPORTED
        return None if before is None else (before, self.weights(before))

    def weights_identity(self, stage: str | None = None) -> str:
        """Return what tells the newest weights from earlier ones: their file and its hash."""
        return self.identity_of(self.newest_weights(stage)[1])

    def identity_of(self, weights: Path) -> str:
        """Return what tells a weights file of the run from another: its name and its hash."""
        return f"{weights.relative_to(self.path)} {content_mark(weights)}"


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a stage, oldest first."""
    found = [path for path in _entries(folder) if _is_checkpoint(path)]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(path: Path) -> int:
    """Return the step of a checkpoint, by its name."""
    return int(path.name.removeprefix("step-"))


def stray_names(folder: Path) -> list[str]:
    """Return what lies beside the checkpoints of a stage and is none: empty folders, copies, files."""
    others = [path for path in _entries(folder) if not _is_checkpoint(path)]
    return [path.name for path in others if path.name != "best" and not path.name.startswith(".step-")]


def _entries(folder: Path) -> list[Path]:
    folders = (folder.parent, folder)
    return list(folder.iterdir()) if all(folder_there(path, _CHECKPOINTS_REMEDY) for path in folders) else []


def _is_checkpoint(path: Path) -> bool:
    return bool(_CHECKPOINT.fullmatch(path.name)) and path.is_dir() and any(path.iterdir())


def _held_recipe(path: Path) -> str:
    """Return the text of the recipe that a run folder holds.

    Raises:
        DamagedError: It is damaged.
    """
    file = path / "recipe.yaml"
    text = read_text(file, limit=64 * MEBIBYTE, remedy=_RECIPE_REMEDY)
    try:
        recipe = parse_yaml(text)
    except ValueError as error:
        raise damaged(file, f"is no YAML: {' '.join(str(error).split())}", _RECIPE_REMEDY) from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("stages"), dict):
        raise damaged(file, "is not the recipe of a run: it has no stages", _RECIPE_REMEDY)
    return text


def _guess(path: Path) -> str:
    beside = [file.parent.name for file in path.parent.glob("*/recipe.yaml")]
    return f"{nearest(path.name, beside)} Run folders in {path.parent}: {listing(beside)}" if beside else ""
