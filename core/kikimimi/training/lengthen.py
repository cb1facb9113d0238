"""Lengthening a finished stage: its steps grow, and it goes on from the checkpoint of its last step."""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from kikimimi.console.terminal import say
from kikimimi.console.words import listing, nearest
from kikimimi.errors import KikimimiError, RequestError, RunError
from kikimimi.files.hashes import UNVERIFIED
from kikimimi.model.trainable import lineage, require_stored
from kikimimi.recipe import Recipe, Stage
from kikimimi.run.drift import recipe_change
from kikimimi.run.folder import RunFolder, checkpoint_folders, checkpoint_step
from kikimimi.run.lock import held_lock, lock_lengths
from kikimimi.run.metrics import read_metrics
from kikimimi.run.rank import global_rank
from kikimimi.training.callbacks.validation import Best
from kikimimi.training.module import StageModule
from kikimimi.training.schedule import factor
from kikimimi.training.state.checkpoint import FolderCheckpointIO

_LENGTH = re.compile(r"stages\.([^.=]+)\.(steps|epochs)=.*")
_HOW = "kikimimi train RUN stages.NAME.steps=N --extend"
_PATIENCE = 120.0  # s for which a rank waits until the first one has lengthened the stage


def lengthen(path: Path, overrides: Sequence[str]) -> RunFolder:
    """Open a run folder and lengthen a finished stage of it, so that training it goes on.

    What the stage had left stays beside what it will leave, under another name. The recipe and the lock of
    the run are changed. Of a stage that was lengthened before, and stopped since, nothing is changed.

    Args:
        path: The run folder.
        overrides: The stage's new length, ``stages.NAME.steps=N`` or ``stages.NAME.epochs=N``, and changes of
            the hardware, if any.

    Raises:
        RunError: The stage cannot be lengthened, or something else would change.
        DamagedError: What the stage has left, or its last checkpoint, is damaged: nothing is moved.
    """
    name, option = _asked(overrides)
    hardware = [change for change in overrides if not _LENGTH.fullmatch(change)]
    run = RunFolder.open(path, hardware, read_lock=True)
    if name not in run.recipe.stages:
        known = run.recipe.stages
        raise RunError(f"{path}: no stage is called '{name}'.{nearest(name, known)} Stages: {listing(known)}")
    wanted = RunFolder.read_recipe(path, overrides)
    old, new = (getattr(recipe.stages[name], option) for recipe in (run.recipe, wanted))
    changed = _with_length(run.recipe, name, option, new)
    if problem := recipe_change(changed, wanted):
        raise RunError(f"{path}: --extend changes a stage's length and nothing else ({problem})")
    if global_rank() != 0:
        _wait(path, name, option, new)
    elif old != new or run.finished(name):
        kept = run.weights_before(name, f"{old}-{option}")
        held_lock(run)  # it is written last
        _check(run, name, f"stages.{name}.{option}", old, new, finished=run.finished(name) or kept.is_file())
        with run.locked():
            recipe = _with_length(RunFolder.open(path).recipe, name, option, new)  # without other hardware
            _change(run, name, recipe, kept)
            say(
                f"stage {name}: lengthened from {old} to {new} {option}. What it had left: {kept}", error=True
            )
    return RunFolder(path, changed)


def _asked(overrides: Sequence[str]) -> tuple[str, Literal["steps", "epochs"]]:
    found = [match for change in overrides if (match := _LENGTH.fullmatch(change))]
    if len(found) != 1:
        raise RequestError(f"--extend takes the new length of one stage, and there are {len(found)}: {_HOW}")
    return found[0][1], cast(Literal["steps", "epochs"], found[0][2])


def _with_length(recipe: Recipe, name: str, option: str, value: int) -> Recipe:
    length: dict[str, Any] = {option: value}
    return replace(recipe, stages={**recipe.stages, name: replace(recipe.stages[name], **length)})


def _check(run: RunFolder, name: str, option: str, old: int | None, new: int, *, finished: bool) -> None:
    """Check that a stage can be lengthened.

    Raises:
        RunError: It cannot.
        DamagedError: What it has left, or its last checkpoint, is damaged.
    """
    stage = run.recipe.stages[name]
    if old is None:
        raise RunError(f"{option}: the stage's length is given otherwise: {_length_of(stage)}")
    if new <= old:
        raise RunError(f"{option}: it has {old} already; --extend takes a larger number, not {new}")
    if not finished:
        raise RunError(
            f"stage '{name}' is not finished, and --extend lengthens one that is. First: "
            f"kikimimi train {run.path}"
        )
    for other in run.recipe.stages:
        if other == name or name not in lineage(run.recipe, other):
            continue
        if run.finished(other) or checkpoint_folders(run.checkpoints(other)):
            raise RunError(
                f"stage '{other}' was trained on what stage '{name}' had left, not on what it will leave. To "
                f"train it again afterwards, move {run.weights(other)} and {run.checkpoints(other)} away"
            )
    best = Best(run.checkpoints(name) / "best", stage)
    best.remember(run.metrics, name)
    if best.stalled():
        raise RunError(
            f"stage '{name}' ended early, as its validation loss no longer fell (stages.{name}.early_stop): "
            "more steps would end as soon"
        )
    last = max((line["step"] for line in read_metrics(run.metrics) if line["stage"] == name), default=0)
    saved = [path for path in checkpoint_folders(run.checkpoints(name)) if checkpoint_step(path) == last]
    if not saved:
        raise RunError(
            f"{run.checkpoints(name)} has no checkpoint of step {last}, the stage's last one: without it, "
            "the stage cannot be lengthened. A stage that ends leaves that checkpoint there: keep it for as "
            "long as the stage may be lengthened"
        )
    FolderCheckpointIO({"stage": name}).check(saved[0])
    # What it has left is kept under another name, which nothing reads again before it is needed.
    if run.finished(name) and not require_stored(run.weights(name), name):
        say(f"{run.weights(name)}: {UNVERIFIED}", error=True)


def _length_of(stage: Stage) -> str:
    return f"steps={stage.steps}" if stage.epochs is None else f"epochs={stage.epochs}"


def _change(run: RunFolder, name: str, recipe: Recipe, kept: Path) -> None:
    """Change what is on disk. After a kill between any two of these, the same command goes on."""
    if run.finished(name):
        run.weights(name).rename(kept)
    run.write_recipe(recipe)
    lock_lengths(run)


def _wait(path: Path, name: str, option: str, new: int) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        run = RunFolder.open(path)
        if getattr(run.recipe.stages[name], option) == new and not run.finished(name):
            return
        if time.monotonic() > end:
            raise KikimimiError(f"{path}: the first rank has not lengthened stage '{name}'")
        time.sleep(0.2)


class NextRates(Callback):
    """Sets the learning rates of a stage that goes on by the length that it has now, and tells them.

    A checkpoint holds those of the next step by the length that the stage had when it was saved.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the rates with the schedule's; without a change of length they are the same."""
        assert isinstance(pl_module, StageModule)
        stage, step = pl_module.stage, trainer.global_step
        if not 0 < step < stage.num_steps:
            return
        (schedule,) = (config.scheduler for config in trainer.lr_scheduler_configs)
        now = factor(stage.schedule, schedule.last_epoch, stage.num_steps)
        rates = [base * now for base in schedule.base_lrs]
        groups = trainer.optimizers[0].param_groups
        held = [group["lr"] for group in groups]
        if all(abs(a - b) <= 1e-9 * b for a, b in zip(held, rates, strict=True)):
            return
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates
        if trainer.is_global_zero:
            of = {
                group["name"]: f"{rate:.3g} (was to be {before:.3g})"
                for group, rate, before in zip(groups, rates, held, strict=True)
            }
            told = ", ".join(f"{name} {rate}" for name, rate in of.items())
            say(
                f"learning rates by schedule {stage.schedule.name} over {stage.num_steps} steps, from step "
                f"{step + 1} on: {told}",
                error=True,
            )
