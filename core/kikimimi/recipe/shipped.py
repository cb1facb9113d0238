"""Recipes that come with the package."""

from __future__ import annotations

from pathlib import Path

from kikimimi.console.words import listing, nearest
from kikimimi.errors import RequestError


def recipes_folder() -> Path:
    """Return the folder of the shipped recipes: in the package, or in the checkout of an editable install."""
    package = Path(__file__).parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def shipped_recipe(name: str) -> Path:
    """Return the path of a shipped recipe.

    Raises:
        RequestError: There is no such recipe.
    """
    paths = {path.stem: path for path in recipes_folder().glob("*.yaml")}
    if name not in paths:
        raise RequestError(f"no recipe '{name}' is shipped.{nearest(name, paths)} Recipes: {listing(paths)}")
    return paths[name]
