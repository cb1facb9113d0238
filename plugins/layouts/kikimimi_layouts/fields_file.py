"""Reads a file of fields, or one that is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from kikimimi.console.words import listing, nearest
from kikimimi.errors import RecipeError, RequestError
from kikimimi_layouts.fields_schema import Fields

FIELDS_FOLDER = Path(__file__).parent / "fields"
"""Holds the shipped files."""


def shipped_fields() -> list[str]:
    """Return the names of the shipped files."""
    return sorted(path.stem for path in FIELDS_FOLDER.glob("*.yaml"))


def load_fields(source: str) -> Fields:
    """Read which columns are what.

    Args:
        source: Path of a YAML file, or the name of one that is shipped (``spoken-magpie-ja``).

    Raises:
        RequestError: There is no such file, or it is wrong; then the message holds every problem found.
    """
    # Here, as reading recipes imports OmegaConf.
    from kikimimi.recipe.build import Builder
    from kikimimi.recipe.problems import Problems
    from kikimimi.recipe.shape import Section
    from kikimimi.recipe.source import read

    shipped = shipped_fields()
    path = FIELDS_FOLDER / f"{source}.yaml" if source in shipped else Path(source)
    if not path.is_file():
        raise RequestError(
            f"fields: there is no file {source}, and none of this name is shipped.{nearest(source, shipped)} "
            f"Shipped: {listing(shipped)}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: not UTF-8: {error}") from error
    problems = Problems()
    entry = read(text, path.name, problems)
    built = None
    if entry is not None:
        built = Builder(problems).build(Section(Fields), entry, "", "a file of fields")
    try:
        problems.raise_any()
    except RecipeError as error:
        lines = "\n".join(f"  {problem.removeprefix('recipe: ')}" for problem in error.problems)
        raise RequestError(f"{path}:\n{lines}") from None
    return cast(Fields, built)
