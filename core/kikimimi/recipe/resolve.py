"""From a file and overrides to a `Recipe`, or to other options; and the recipes that are shipped."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

from kikimimi.console.words import listing, nearest
from kikimimi.errors import DamagedError, RecipeError, RequestError
from kikimimi.files.reading import read_bytes
from kikimimi.files.yaml_text import MAX_YAML
from kikimimi.recipe.build import Builder
from kikimimi.recipe.cross import check_across
from kikimimi.recipe.interpolate import interpolate
from kikimimi.recipe.merge import apply_overrides, merge
from kikimimi.recipe.schema import Evaluation, Evaluations, Recipe
from kikimimi.recipe.shape import Section
from kikimimi.recipe.source import Entry, Problems, guess, read, read_section
from kikimimi.recipe.task_files import insert_tasks, locate_tasks

_RECIPE, _EVALUATIONS = Section(Recipe), Section(Evaluations)
_Read = TypeVar("_Read")


def load_recipe(path: Path | str, overrides: Sequence[str] = (), *, trains: bool = True) -> Recipe:
    """Read a recipe, resolve it and check it.

    Args:
        path: The YAML file.
        overrides: ``key.sub=value`` each.
        trains: Whether stages will be trained where it says that it runs.

    Raises:
        RequestError: There is no such file.
        RecipeError: The recipe is wrong; the error holds every problem found.
    """
    problems = Problems()
    tree = apply_overrides(_tree(Path(path), problems), overrides, _RECIPE, problems)
    return _recipe(tree, problems, trains=trains)


def load_evaluations(path: Path | str) -> dict[str, Evaluation]:
    """Read the evaluations of a recipe, or of a file that holds nothing but the section ``evaluate``.

    Args:
        path: The YAML file, or the name of a file of evaluations that is shipped.

    Raises:
        RequestError: There is no such file.
        RecipeError: It is wrong; the error holds every problem found.
    """
    path, problems = Path(path), Problems()
    shipped = shipped_evaluations()
    if not path.is_file():
        if str(path) not in shipped:
            near = guess(path) or nearest(str(path), shipped)
            raise RequestError(
                f"there is no recipe {path}.{near} Evaluations that are shipped: {listing(shipped)}"
            )
        path = shipped[str(path)]
    tree = _tree(path, problems)
    if set(tree.value) != {"evaluate"}:
        return _recipe(tree, problems).evaluate
    tree = interpolate(insert_tasks(tree, _RECIPE, problems), problems)
    built = Builder(problems).build(_EVALUATIONS, tree, "", "a file of evaluations")
    problems.raise_any()
    return cast(Evaluations, built).evaluate


def _tree(path: Path, problems: Problems) -> Entry:
    """Return a recipe with those that it extends."""
    if not path.is_file():
        raise RequestError(f"there is no recipe {path}.{guess(path)}")
    tree: Entry | None = None
    for file in reversed(_chain(path, problems)):
        tree = merge(tree, file, _RECIPE, "", problems)
    assert tree is not None
    return tree


def _recipe(tree: Entry, problems: Problems, *, trains: bool = True) -> Recipe:
    tree = interpolate(insert_tasks(tree, _RECIPE, problems), problems)
    builder = Builder(problems)
    recipe = builder.build(_RECIPE, tree, "", "a recipe")
    check_across(tree, builder, trains=trains)
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


def read_options(path: Path, schema: type[_Read], *, what: str) -> _Read:
    """Read a YAML file into a dataclass.

    Args:
        path: The file; it exists.
        schema: A frozen, keyword-only dataclass, as components' `Config` are.
        what: What the file is, for messages ("a file of fields").

    Raises:
        RequestError: It is wrong; the message holds every problem found.
    """
    try:
        text = read_bytes(path, limit=MAX_YAML).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not UTF-8: {error}") from error
    except DamagedError as error:
        raise RequestError(str(error)) from error
    problems = Problems()
    entry = read(text, path.name, problems)
    built = None
    if entry is not None:
        built = Builder(problems).build(Section(schema), entry, "", what)
    try:
        problems.raise_any()
    except RecipeError as error:
        lines = "\n".join(f"  {problem.removeprefix('recipe: ')}" for problem in error.problems)
        raise RequestError(f"{path}:\n{lines}") from None
    return cast(_Read, built)


def recipes_folder() -> Path:
    """Return the folder of the shipped recipes: in the package, or in the checkout of an editable install."""
    return _shipped("recipes")


def shipped_evaluations() -> dict[str, Path]:
    """Return the shipped files of evaluations by name: docs/benchmarks.md tells of each."""
    return {path.stem: path for path in sorted(_shipped("evaluations").glob("*.yaml"))}


def _shipped(name: str) -> Path:
    package = Path(__file__).parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parents[1] / name


def shipped_recipe(name: str) -> Path:
    """Return the path of a shipped recipe.

    Raises:
        RequestError: There is no such recipe.
    """
    paths = {path.stem: path for path in recipes_folder().glob("*.yaml")}
    if name not in paths:
        raise RequestError(f"no recipe '{name}' is shipped.{nearest(name, paths)} Recipes: {listing(paths)}")
    return paths[name]
