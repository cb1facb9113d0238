"""``kikimimi train``."""

from __future__ import annotations

from pathlib import Path

import typer


def train(
    source: Path = typer.Argument(
        ..., metavar="RECIPE_OR_RUN", help="A recipe (YAML), or a run folder to go on with."
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
) -> None:
    """Train the stages of a recipe one after the other. The same command goes on after an interruption."""
    from kikimimi.errors import RequestError
    from kikimimi.recipe import load_recipe
    from kikimimi.run_folder import RunFolder, run_name

    if source.is_dir():
        if out is not None:
            raise RequestError(f"{source} is a run folder, and it goes on where it is: leave out --out {out}")
        run = RunFolder.open(source, overrides or [])
    else:
        recipe = load_recipe(source, overrides or [])
        run = RunFolder.create((out or Path("runs")) / run_name(recipe.name, overrides or []), recipe)
    from kikimimi.training.train import train as train_run

    typer.echo(f"run folder: {run.path}", err=True)
    train_run(run, stage)
    typer.echo(str(run.path))
    typer.echo(f"next: kikimimi evaluate {run.path}", err=True)
