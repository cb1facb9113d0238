"""Lays a recipe over the one that it extends, and the command line's changes over both.

A component whose name changes is replaced as a whole: options of the old plugin must not reach the new one.
"""

from __future__ import annotations

from collections.abc import Sequence

from kikimimi.console.terminal import shortened
from kikimimi.console.words import listing, nearest
from kikimimi.files.yaml_text import MAX_DEPTH
from kikimimi.recipe.shape import Named, Pluggable, Shape, inside
from kikimimi.recipe.source import Entry, Problems, read


def as_section(entry: Entry) -> Entry:
    """Spell the short form of a component, its name alone, as a section."""
    if entry.is_scalar and entry.value is not None and "${" not in entry.text:
        return Entry({"name": entry}, entry.where)
    return entry


def merge(base: Entry | None, over: Entry, shape: Shape | None, key: str, problems: Problems) -> Entry:
    """Merge an entry over another."""
    if isinstance(shape, Pluggable):
        base, over = as_section(base) if base else None, as_section(over)
    # Where the schema says nothing, inside a plugin's options, a section with a name is a nested plugin.
    is_plugin = shape is None or isinstance(shape, Pluggable)
    if is_plugin and base and _plugin_name(over) not in (None, _plugin_name(base)):
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
            _remove(merged, name, shape, path, entry.where, problems)
        else:
            merged[name] = merge(merged.get(name), entry, inside(shape, name), path, problems)
    return Entry(merged, over.where)


def _plugin_name(entry: Entry) -> str | None:
    """Return the plugin that a section names, or None."""
    name = entry.value.get("name") if isinstance(entry.value, dict) else None
    return name.text if name and name.is_scalar else None


def _remove(
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


def apply_overrides(tree: Entry, overrides: Sequence[str], shape: Shape, problems: Problems) -> Entry:
    """Apply ``key.sub=value`` overrides; the choice of a component comes before its options."""
    given = [one for text in overrides if (one := _Override.read(text, problems))]
    # A swap drops the options inside it, so it comes first also where plugins are nested.
    for one in sorted(given, key=lambda one: (one.is_option(tree, shape), len(one.keys))):
        tree = one.set(tree, one.keys, shape, "", problems)
    return tree


class _Override:
    def __init__(self, text: str, keys: list[str], value: Entry) -> None:
        self.text, self.keys, self.value = text, keys, value

    @classmethod
    def read(cls, text: str, problems: Problems) -> _Override | None:
        key, equals, written = text.partition("=")
        key, where = key.strip(), f"command line: {shortened(text, 200)}"
        if not equals or not all(key.split(".")):
            problems.add(key, "expected key=value, such as adapter.downsample=8", where)
            return None
        if not written.strip():
            problems.add(
                key, "nothing follows the '='; write null to remove it, or '\"\"' for an empty text", where
            )
            return None
        if key.count(".") > MAX_DEPTH:
            problems.add(shortened(key, 60), f"nested deeper than {MAX_DEPTH} levels", "command line")
            return None
        if key == "extends":
            problems.add(key, "can only stand in a file", where)
            return None
        value = read(written, where, problems, key=key, lines=False)
        return cls(text, key.split("."), value) if value else None

    def is_option(self, tree: Entry | None, shape: Shape | None) -> bool:
        """Whether it lies inside a component's section."""
        keys, entry = self.keys, tree
        while keys and not isinstance(shape, Pluggable):
            name, keys = _first(keys, entry)
            entry, shape = _child(entry, name), inside(shape, name)
        return bool(keys)

    def set(
        self, base: Entry | None, keys: list[str], shape: Shape | None, path: str, problems: Problems
    ) -> Entry:
        """Return `base` with the value set at `keys` below it."""
        if not keys:
            return (
                as_section(self.value)
                if isinstance(shape, Pluggable)
                else merge(base, self.value, shape, path, problems)
            )
        if base and base.value is None:  # such as an optional section that is off
            base = None
        # Inside a plugin's options, where the schema says nothing, a bare name is a nested plugin's.
        if base and (shape is None or isinstance(shape, Pluggable)):
            base = as_section(base)
        if base and not isinstance(base.value, dict):
            problems.add(path, f"{base.shown()} ({base.where}) has no options inside", self.value.where)
            return base
        held: dict[str, Entry] = dict(base.value) if base else {}
        name, rest = _first(keys, base)
        inner = f"{path}.{name}" if path else name
        nested = shape is None and base is not None and _plugin_name(base) is not None
        if (nested or isinstance(shape, Pluggable)) and name == "name" and not rest:
            kind = shape.kind if isinstance(shape, Pluggable) else "plugin"
            problems.add(
                inner,
                f"write {path}={self.value.text}: another {kind} has other options, so that the whole "
                "section is replaced",
                self.value.where,
            )
            return base or self.value
        if isinstance(shape, Named):
            if not rest and self.value.value is None:
                _remove(held, name, shape, inner, self.value.where, problems)
                return Entry(held, base.where if base else self.value.where)
            if rest and name not in held and not shape.keys:
                problems.add(
                    inner,
                    f"there is no {shape.noun} '{name}'.{nearest(name, held)} {shape.noun.capitalize()}s: "
                    f"{listing(held)}. To add one, write {inner}={{...}}",
                    self.value.where,
                )
                return base or Entry({}, self.value.where)
        held[name] = self.set(held.get(name), rest, inside(shape, name), inner, problems)
        return Entry(held, base.where if base else self.value.where)


def _first(keys: list[str], entry: Entry | None) -> tuple[str, list[str]]:
    """Split off the first name; names may hold dots themselves, so the longest one that exists is taken."""
    if entry and isinstance(entry.value, dict):
        for count in range(len(keys), 1, -1):
            if (name := ".".join(keys[:count])) in entry.value:
                return name, keys[count:]
    return keys[0], keys[1:]


def _child(entry: Entry | None, name: str) -> Entry | None:
    return entry.value.get(name) if entry and isinstance(entry.value, dict) else None
