"""From a file and overrides to a `Recipe`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kikimimi.recipe.schema import Recipe


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, resolve it and check it.

    Args:
        path: The YAML file.
        overrides: ``key.sub=value`` each.

    Raises:
        RequestError: There is no such file.
        RecipeError: The recipe is wrong; the error holds every problem found.
    """
    raise NotImplementedError
