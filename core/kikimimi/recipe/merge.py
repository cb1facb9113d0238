"""Merges a recipe over the one that it extends.

A component whose name changes is replaced as a whole: options of the old plugin must not reach the new one.
"""

from __future__ import annotations

from kikimimi.console.words import listing, nearest
from kikimimi.recipe.problems import Problems
from kikimimi.recipe.shape import Component, Named, Shape, inside
from kikimimi.recipe.source import Entry


def as_section(entry: Entry) -> Entry:
    """Spell the short form of a component, its name alone, as a section."""
    if entry.is_scalar and entry.value is not None and "${" not in entry.text:
        return Entry({"name": entry}, entry.where)
    return entry


def merge(base: Entry | None, over: Entry, shape: Shape | None, key: str, problems: Problems) -> Entry:
    """Merge an entry over another.

    Args:
        base: What is extended, or None.
        over: What is laid over it.
        shape: What the schema says about the place; None where it says nothing.
        key: Dotted key of the place.
        problems: Where problems go.
    """
    if isinstance(shape, Component):
        base, over = as_section(base) if base else None, as_section(over)
    # Where the schema says nothing, inside a plugin's options, a section with a name is a nested plugin.
    is_plugin = shape is None or isinstance(shape, Component)
    if is_plugin and base and component_name(over) not in (None, component_name(base)):
        base = None
    if not isinstance(over.value, dict):
        return over
    if base and isinstance(base.value, str) and "${" in base.text:
        problems.add(
            key, f"a part of {base.shown()} ({base.where}) cannot be changed: give all of it", over.where
        )
        return over
    merged: dict[str, Entry] = dict(base.value) if base and isinstance(base.value, dict) else {}
    for name, entry in over.value.items():
        path = f"{key}.{name}" if key else name
        if isinstance(shape, Named) and entry.value is None:
            remove(merged, name, shape, path, entry.where, problems)
        else:
            merged[name] = merge(merged.get(name), entry, inside(shape, name), path, problems)
    return Entry(merged, over.where)


def component_name(entry: Entry) -> str | None:
    """Return the plugin that a section names, or None."""
    name = entry.value.get("name") if isinstance(entry.value, dict) else None
    return name.text if name and name.is_scalar else None


def remove(
    merged: dict[str, Entry], name: str, shape: Named, path: str, where: str, problems: Problems
) -> None:
    """Remove a named entry that null stands for; it must be there."""
    if name in merged:
        del merged[name]
        return
    problems.add(
        path,
        f"there is no {shape.noun} '{name}' to remove by null.{nearest(name, merged)} "
        f"{shape.noun.capitalize()}s: {listing(merged)}",
        where,
    )
