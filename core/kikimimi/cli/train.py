"""``kikimimi train`` and ``kikimimi quickstart``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kikimimi.console.terminal import say

if TYPE_CHECKING:
    from kikimimi.run.folder import RunFolder


def train(
    source: Path = typer.Argument(
        ...,
        metavar="RECIPE_OR_RUN",
        help="A recipe (YAML), a run folder to go on with, or the lock.json of a run to repeat.",
    ),
    overrides: list[str] = typer.Argument(
        None,
        help="Changes to the recipe: adapter.downsample=8, adapter=mlp, stages.asr.steps=1000. A run folder "
        "takes those of the hardware: trainer.devices=2",
    ),
    stage: str | None = typer.Option(
        None, "--stage", help="Train this stage alone; the stage that it starts from has to be finished."
    ),
    out: Path | None = typer.Option(None, "--out", show_default="runs", help="Where run folders go."),
    locked: bool = typer.Option(
        False, "--locked", help="Refuse to go on where anything has changed since the run began."
    ),
    extend: bool = typer.Option(
        False,
        "--extend",
        help="Lengthen a finished stage of a run folder, and go on with it: RUN stages.NAME.steps=N --extend",
    ),
) -> None:
    """Train the stages of a recipe one after the other. The same command goes on after an interruption."""
    from kikimimi.training.stop import stopping

    with stopping():  # from here on: importing what trains takes a while
        _train(source, overrides or [], stage, out, locked, extend)


def _train(
    source: Path, overrides: list[str], stage: str | None, out: Path | None, locked: bool, extend: bool
) -> None:
    from kikimimi.errors import RequestError
    from kikimimi.recipe import load_recipe
    from kikimimi.run.folder import RunFolder, run_name
    from kikimimi.run.rank import global_rank

    recipe_file = None
    if extend and not source.is_dir():
        raise RequestError(
            f"{source} is no run folder, and --extend lengthens a stage of one: "
            "kikimimi train RUN stages.NAME.steps=N --extend"
        )
    if source.is_dir():
        if out is not None:
            raise RequestError(f"{source} is a run folder, and it goes on where it is: leave out --out {out}")
        run = _lengthened(source, overrides) if extend else RunFolder.open(source, overrides, read_lock=True)
    elif source.suffix == ".json" and source.is_file():
        run = _repeat(source, overrides, out)
    else:
        recipe, recipe_file = load_recipe(source, overrides), source
        run = RunFolder.create((out or Path("runs")) / run_name(recipe.name, overrides), recipe)
    from kikimimi.data.shards.pattern import patterns_of
    from kikimimi.training.train import train as train_run

    if global_rank() == 0:
        say(f"run folder: {run.path}", error=True)
    with patterns_of(recipe_file):
        train_run(run, stage, recipe_file=recipe_file, locked=locked)
    if global_rank() == 0:
        say(str(run.path))
        say(f"next: kikimimi evaluate {run.path}", error=True)


def _lengthened(source: Path, overrides: list[str]) -> RunFolder:
    from kikimimi.training.lengthen import lengthen

    return lengthen(source, overrides)


def _repeat(source: Path, overrides: list[str], out: Path | None) -> RunFolder:
    """Make a run of the recipe that a lock holds, if all that it names is as it was."""
    from kikimimi.errors import RequestError
    from kikimimi.run.folder import RunFolder, run_name
    from kikimimi.run.lock import hold_to, read_lock

    if out is None:
        raise RequestError(f"{source} is the lock of a run: say with --out where its repetition goes")
    held, recipe = read_lock(source, overrides)
    path = out / run_name(recipe.name, overrides)
    if path.resolve() == source.resolve().parent:
        raise RequestError(f"{path} is the run that {source} locks. Choose another --out for its repetition")
    hold_to(source, held, recipe)
    for change in held.get("lengthened", []):
        name = change["stage"]
        say(
            f"stage {name}: was lengthened from {change['old']} to {change['new']} {change['option']}, and "
            "is now trained in one: the same only where its learning rate is constant "
            f"(schedule: {recipe.stages[name].schedule.name})",
            error=True,
        )
    return RunFolder.create(path, recipe)


def quickstart(
    overrides: list[str] = typer.Argument(None, help="Changes to the recipe, as for train."),
    out: Path = typer.Option(Path("runs"), "--out", help="Where the run folder goes."),
    chain: bool = typer.Option(
        False,
        "--chain",
        help="The stages of the Japanese chain in small: text, adapter, spoken instructions, preferences.",
    ),
) -> None:
    """From nothing to a trained speech LLM: speak, pack, train, evaluate, report. Minutes on two cores."""
    from kikimimi.quickstart import quickstart as run_quickstart

    run = run_quickstart(overrides or [], out, chain=chain)
    say(str(run.report))
