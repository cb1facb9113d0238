"""Tasks in files of their own: ``task: my_task.yaml`` stands for the task section that the file holds.

The file's name takes the place of the task's until the recipe is merged, so that another file replaces the
whole section, and options beside the name are laid over the file's. Then the section is put in its place: a
resolved recipe needs no file.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kikimimi.recipe.merge import merge
from kikimimi.recipe.shape import Named, Pluggable, Section, Shape, inside
from kikimimi.recipe.source import UNREAD, Entry, Problems, guess, read_section

KIND = "task"
DEFAULT = "prompted"
"""The task of a file that names none."""
ENDINGS = (".yaml", ".yml")

_Change = Callable[[Entry, Entry, str], Entry]
"""Makes of a task's section, its name, which is a file's, and its dotted key what stands there instead."""


def locate_tasks(tree: Entry, shape: Shape, folder: Path) -> Entry:
    """Make the files' names relative to the current folder."""

    def locate(section: Entry, name: Entry, key: str) -> Entry:
        if "${" in name.text:  # an error, which is told where the file would be read
            return section
        path = os.path.normpath(folder / name.text)
        return Entry(section.value | {"name": replace(name, value=path, text=path)}, section.where)

    return _walk(tree, shape, "", locate)


def insert_tasks(tree: Entry, shape: Shape, problems: Problems) -> Entry:
    """Put the tasks of files in their places."""
    held: dict[str, Entry | None] = {}

    def insert(section: Entry, name: Entry, key: str) -> Entry:
        if name.text not in held:
            held[name.text] = _read(name, key, problems)
        task = held[name.text]
        if task is None:
            return Entry(UNREAD, section.where)
        over = {option: entry for option, entry in section.value.items() if option != "name"}
        return merge(task, Entry(over, section.where), Pluggable(KIND), key, problems) if over else task

    return _walk(tree, shape, "", insert)


def _walk(entry: Entry, shape: Shape | None, key: str, change: _Change) -> Entry:
    """Return the recipe with every task that is a file's changed."""
    if isinstance(shape, Pluggable):
        section = Entry({"name": entry}, entry.where) if entry.is_scalar else entry
        name = section.value.get("name") if isinstance(section.value, dict) else None
        is_file = shape.kind == KIND and name is not None and _is_file(name)
        return change(section, name, key) if is_file and name is not None else entry
    if not isinstance(shape, Section | Named) or not isinstance(entry.value, dict):
        return entry
    items = {
        name: _walk(item, inside(shape, name), f"{key}.{name}".lstrip("."), change)
        for name, item in entry.value.items()
    }
    return Entry(items, entry.where)


def _is_file(name: Entry) -> bool:
    return name.is_scalar and name.text.lower().endswith(ENDINGS)


def _read(name: Entry, key: str, problems: Problems) -> Entry | None:
    """Return the section that a file holds, its task named, or None; then a problem was added."""
    path = Path(name.text)
    if "${" in name.text:
        problems.add(
            key, f"{name.shown()}: the file of a task cannot be put together by ${{...}}", name.where
        )
        return None
    if not path.is_file():
        said = "is no file" if path.exists() else "there is no such file"
        problems.add(key, f"{path}: {said}.{guess(path)}", name.where)
        return None
    task = read_section(path, problems, key=key)
    if task is None:
        return None
    named = task.value.get("name")
    if named is None:
        return Entry({"name": Entry(DEFAULT, task.where, DEFAULT)} | task.value, task.where)
    if _is_file(named):
        said = f"expected the name of a registered task, not another file: '{named.text}'"
        problems.add(f"{key}.name", said, named.where)
        return None
    return task
