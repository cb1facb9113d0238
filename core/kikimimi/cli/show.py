"""``kikimimi show``, and what commands look at: a recipe, or the one that a run keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kikimimi.console.terminal import say, say_json

if TYPE_CHECKING:
    from kikimimi.recipe import Recipe


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
        say_json([asdict(component) for component in components])
        return
    # The components are comments, so that what is printed is a recipe that can be saved and used.
    say(as_comments(components))
    say(to_yaml(recipe).rstrip())


def open_recipe(source: Path, overrides: Sequence[str], command: str) -> tuple[Recipe, Path | None]:
    """Return the recipe of a file or of a run folder, and the assets of the run, where it has any.

    Raises:
        RequestError: It is not there, is wrong, or is a run and there are overrides.
    """
    from kikimimi.errors import RequestError
    from kikimimi.recipe import load_recipe
    from kikimimi.run.folder import RunFolder

    if not source.is_dir():
        return load_recipe(source, overrides), None
    if overrides:
        raise RequestError(
            f"{source} is a run folder, and a run keeps its recipe. To look at a change: "
            f"{command} {source / 'recipe.yaml'} {' '.join(overrides)}"
        )
    run = RunFolder.open(source)
    return run.recipe, run.assets if run.has_assets else None
