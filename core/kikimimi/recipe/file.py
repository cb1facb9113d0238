"""Reads the YAML files that a recipe is made of: recipes, and tasks beside them."""

from __future__ import annotations

from pathlib import Path

from kikimimi.console.words import nearest
from kikimimi.recipe.problems import Problems
from kikimimi.recipe.source import Entry, read


def read_section(path: Path, problems: Problems, *, key: str = "") -> Entry | None:
    """Read a file that holds a section.

    Args:
        path: The file; it exists.
        problems: Where problems go.
        key: Dotted key of the section in the recipe; empty for the recipe itself.

    Returns:
        The section, or None where nothing could be made of the file; then a problem was added.
    """
    try:
        entry = read(path.read_text("utf-8-sig"), str(path), problems, key=key)
    except UnicodeDecodeError as error:
        problems.add(key, f"not UTF-8 text (byte {error.start})", str(path))
        return None
    except OSError as error:
        problems.add(key, f"cannot be read: {error.strerror}", str(path))
        return None
    if entry and not isinstance(entry.value, dict):
        said = "is empty" if entry.value is None else f"expected a section, not {entry.shown()}"
        problems.add(key, said, entry.where)
        return None
    return entry


def guess(path: Path) -> str:
    """Return `` Did you mean 'x'?`` for the YAML file beside `path` that is called nearly so."""
    beside = path.parent.glob("*.y*ml") if path.parent.is_dir() else ()
    return nearest(path.name, [file.name for file in beside if file.is_file()])
