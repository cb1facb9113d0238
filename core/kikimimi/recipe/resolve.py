"""From a file and overrides to a `Recipe`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from kikimimi.errors import RequestError
from kikimimi.recipe.build import Builder
from kikimimi.recipe.cross import check_across
from kikimimi.recipe.file import guess, read_section
from kikimimi.recipe.interpolate import interpolate
from kikimimi.recipe.merge import merge
from kikimimi.recipe.override import apply_overrides
from kikimimi.recipe.problems import Problems
from kikimimi.recipe.schema import Recipe
from kikimimi.recipe.shape import Section
from kikimimi.recipe.source import Entry
from kikimimi.recipe.task_files import insert_tasks, locate_tasks

_RECIPE = Section(Recipe)


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, resolve it and check it.

    Args:
        path: The YAML file.
        overrides: ``key.sub=value`` each.

    Raises:
        RequestError: There is no such file.
        RecipeError: The recipe is wrong; the error holds every problem found.
    """
    path, problems = Path(path), Problems()
    if not path.is_file():
        raise RequestError(f"there is no recipe {path}.{guess(path)}")
    tree: Entry | None = None
    for file in reversed(_chain(path, problems)):
        tree = merge(tree, file, _RECIPE, "", problems)
    assert tree is not None
    tree = apply_overrides(tree, overrides, _RECIPE, problems)
    tree = interpolate(insert_tasks(tree, _RECIPE, problems), problems)
    builder = Builder(problems)
    recipe = builder.build(_RECIPE, tree, "", "a recipe")
    check_across(tree, builder)
    problems.raise_any()
    return cast(Recipe, recipe)


def _chain(path: Path, problems: Problems) -> list[Entry]:
    """Return the recipe, the one that it extends, and so on.

    Raises:
        RecipeError: One of them cannot be read.
    """
    found: list[Entry] = []
    seen: list[Path] = []
    while True:
        seen.append(path.resolve())
        entry = read_section(path, problems)
        if entry is None:
            problems.raise_any()
        assert entry is not None
        parent = entry.value.pop("extends", None)
        found.append(locate_tasks(entry, _RECIPE, path.parent))
        if parent is None:
            return found
        if not isinstance(parent.value, str):
            problems.add("extends", f"expected the name of a file, not {parent.shown()}", parent.where)
            problems.raise_any()
        path = Path(os.path.normpath(path.parent / parent.text))
        if path.resolve() in seen:
            chain = " -> ".join(file.name for file in [*seen, path])
            problems.add("extends", f"leads back to itself: {chain}", parent.where)
            problems.raise_any()
        if not path.is_file():
            problems.add("extends", f"there is no recipe {path}.{guess(path)}", parent.where)
            problems.raise_any()
