"""Reads a YAML file of options, as strictly as a recipe: all problems at once, each with its line."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, cast

from kikimimi.errors import RecipeError, RequestError
from kikimimi.recipe.build import Builder
from kikimimi.recipe.problems import Problems
from kikimimi.recipe.shape import Section
from kikimimi.recipe.source import read

Options = TypeVar("Options")


def read_options(path: Path, schema: type[Options], *, what: str) -> Options:
    """Read a YAML file into a dataclass.

    Args:
        path: The file; it exists.
        schema: A frozen, keyword-only dataclass, as components' `Config` are.
        what: What the file is, for messages ("a file of fields").

    Raises:
        RequestError: It is wrong; the message holds every problem found.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not UTF-8: {error}") from error
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
    return cast(Options, built)
