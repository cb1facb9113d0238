"""``kikimimi data show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kikimimi.cli.recipe_or_run import open_recipe


def show(
    source: Annotated[
        Path, typer.Argument(metavar="RECIPE_OR_RUN", help="A recipe (YAML), or a run folder.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to the recipe, as for train.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Records of each stage.")] = 5,
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only records of this dataset.")] = None,
    step: Annotated[int, typer.Option(min=1, help="Begin with this optimiser step.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the recipe's.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Also list the tokens, one on a line.")] = False,
) -> None:
    """Print what the model is shown, in training order: rendered text, clips, lengths, and what it learns."""
    from dataclasses import replace

    from rich.console import Console

    from kikimimi.inspect.show import print_stage, show as show_stages

    recipe, assets = open_recipe(source, overrides or [], "kikimimi data show")
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    console = Console()
    for shown in show_stages(recipe, assets=assets, stage=stage, dataset=dataset, count=count, step=step):
        print_stage(console, shown, tokens=tokens)
