"""``kikimimi show``."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from kikimimi.cli.recipe_or_run import open_recipe


def show(
    source: Path = typer.Argument(..., metavar="RECIPE_OR_RUN", help="A recipe (YAML), or a run folder."),
    overrides: list[str] = typer.Argument(None, help="Changes to the recipe, as for train."),
    as_json: bool = typer.Option(False, "--json", help="Print the components' figures as one JSON object."),
) -> None:
    """Print the resolved recipe, and what its components are: provenance and parameters."""
    from kikimimi.inspect.describe import as_comments, describe
    from kikimimi.recipe.show import to_yaml

    recipe, assets = open_recipe(source, overrides or [], "kikimimi show")
    components = describe(recipe, assets)
    if as_json:
        typer.echo(json.dumps([component.to_json() for component in components]))
        return
    # The components are comments, so that what is printed is a recipe that can be saved and used.
    typer.echo(as_comments(components))
    typer.echo(to_yaml(recipe).rstrip())
