"""``kikimimi show``."""

from __future__ import annotations

import json
from pathlib import Path

import typer


def show(
    source: Path = typer.Argument(..., metavar="RECIPE_OR_RUN", help="A recipe (YAML), or a run folder."),
    overrides: list[str] = typer.Argument(None, help="Changes to the recipe, as for train."),
    as_json: bool = typer.Option(False, "--json", help="Print the components' figures as one JSON object."),
) -> None:
    """Print the resolved recipe, and what its components are: provenance and parameters."""
    from kikimimi.describe import as_comments, describe
    from kikimimi.errors import RequestError
    from kikimimi.recipe import load_recipe
    from kikimimi.run_folder import RunFolder

    if source.is_dir():
        if overrides:
            raise RequestError(
                f"{source} is a run folder, and a run keeps its recipe. To look at a change: "
                f"kikimimi show {source / 'recipe.yaml'} {' '.join(overrides)}"
            )
        run = RunFolder.open(source)
        recipe, assets = run.recipe, run.assets if run.assets.is_dir() else None
    else:
        recipe, assets = load_recipe(source, overrides or []), None
    components = describe(recipe, assets)
    if as_json:
        typer.echo(json.dumps([component.to_json() for component in components]))
        return
    # The components are comments, so that what is printed is a recipe that can be saved and used.
    typer.echo(as_comments(components))
    typer.echo(recipe.to_yaml().rstrip())
