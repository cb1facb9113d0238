"""Applies the overrides of the command line to a recipe."""

from __future__ import annotations

from collections.abc import Sequence

from kikimimi.console.words import listing, nearest
from kikimimi.recipe.merge import as_section, component_name, merge, remove
from kikimimi.recipe.problems import Problems
from kikimimi.recipe.shape import Component, Named, Shape, inside
from kikimimi.recipe.source import Entry, read


def apply_overrides(tree: Entry, overrides: Sequence[str], shape: Shape, problems: Problems) -> Entry:
    """Apply ``key.sub=value`` overrides; the choice of a component comes before its options.

    Args:
        tree: The recipe.
        overrides: As the command line gives them.
        shape: The recipe's shape.
        problems: Where problems go.
    """
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
        key, where = key.strip(), f"command line: {text}"
        if not equals or not all(key.split(".")):
            problems.add(key, "expected key=value, such as adapter.downsample=8", where)
            return None
        if not written.strip():
            problems.add(
                key, "nothing follows the '='; write null to remove it, or '\"\"' for an empty text", where
            )
            return None
        if key == "extends":
            problems.add(key, "can only stand in a file", where)
            return None
        value = read(written, where, problems, key=key, lines=False)
        return cls(text, key.split("."), value) if value else None

    def is_option(self, tree: Entry | None, shape: Shape | None) -> bool:
        """Whether it lies inside a component's section."""
        keys, entry = self.keys, tree
        while keys and not isinstance(shape, Component):
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
                if isinstance(shape, Component)
                else merge(base, self.value, shape, path, problems)
            )
        if base and base.value is None:  # such as an optional section that is off
            base = None
        # Inside a plugin's options, where the schema says nothing, a bare name is a nested plugin's.
        if base and (shape is None or isinstance(shape, Component)):
            base = as_section(base)
        if base and not isinstance(base.value, dict):
            problems.add(path, f"{base.shown()} ({base.where}) has no options inside", self.value.where)
            return base
        held: dict[str, Entry] = dict(base.value) if base else {}
        name, rest = _first(keys, base)
        inner = f"{path}.{name}" if path else name
        nested = shape is None and base is not None and component_name(base) is not None
        if (nested or isinstance(shape, Component)) and name == "name" and not rest:
            kind = shape.kind if isinstance(shape, Component) else "plugin"
            problems.add(
                inner,
                f"write {path}={self.value.text}: another {kind} has other options, so that the whole "
                "section is replaced",
                self.value.where,
            )
            return base or self.value
        if isinstance(shape, Named):
            if not rest and self.value.value is None:
                remove(held, name, shape, inner, self.value.where, problems)
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
