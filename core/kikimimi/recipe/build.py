"""Builds the objects of a recipe from its entries, gathering every problem on the way."""

import dataclasses
import re
from bisect import bisect_left
from typing import Any, get_args, get_origin

from kikimimi.console.words import listing, nearest
from kikimimi.contracts import registry
from kikimimi.contracts.options import declared, describe_type, out_of_bounds, without_none
from kikimimi.errors import PluginError
from kikimimi.recipe.chosen import OF_PARTS, PARTS, Chosen
from kikimimi.recipe.merge import as_section
from kikimimi.recipe.schema import MAX_NAME, NAME
from kikimimi.recipe.shape import (
    Leaf,
    Named,
    NotOfTypeError,
    Pluggable,
    Section,
    Several,
    Shape,
    convert,
    is_supported,
    shapes,
)
from kikimimi.recipe.source import UNREAD, Entry, Problems


class Invalid:
    """Stands for a value that could not be built; its problem was added."""


INVALID = Invalid()
_BESIDE: dict[str, Shape] = {option: shapes(Chosen)[option] for option in OF_PARTS}


class Builder:
    """Builds and remembers.

    Attributes:
        built: What could be built, by dotted key.
        where: Where each key stands, also of what could not be built.
    """

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.built: dict[str, Any] = {}
        self.where: dict[str, str] = {}

    def build(self, shape: Shape, entry: Entry, key: str, owner: str) -> Any:
        """Build what stands at a place.

        Returns:
            The object, or INVALID.
        """
        self.where[key] = entry.where
        found: Any
        if entry.value is UNREAD or (isinstance(shape, Leaf) and not entry.is_readable):
            found = INVALID
        elif entry.value == "???":
            found = self._fail(key, f"must be given ('???' here): {_expected(shape)}", entry)
        elif isinstance(shape, Section):
            found = self._section(shape, entry, key, owner)
        elif isinstance(shape, Several):
            found = self._several(shape, entry, key, owner)
        elif isinstance(shape, Named):
            found = self._named(shape, entry, key)
        elif isinstance(shape, Pluggable):
            found = self._component(shape, entry, key)
        else:
            found = self._bounded(shape.annotation, self._leaf(shape, entry, key), entry, key)
        if found is not INVALID:
            self.built[key] = found
        return found

    def _fail(self, key: str, message: str, entry: Entry) -> Any:
        self.problems.add(key, message, entry.where)
        return INVALID

    def _section(self, shape: Section, entry: Entry, key: str, owner: str) -> Any:
        if entry.value is None and shape.optional:
            return None
        if not isinstance(entry.value, dict):
            return self._fail(key, f"expected {_expected(shape)}, not {entry.shown()}", entry)
        known, places = declared(shape.cls), shapes(shape.cls)
        values: dict[str, Any] = {}
        for name, item in entry.value.items():
            path = _join(key, name)
            if name in known:
                found = self.build(places[name], item, path, f"'{name}'")
                values[known[name].field.name] = self._bounded(known[name].annotation, found, item, path)
                continue
            said = f"{owner} has no option '{name}'.{nearest(name, known)} Options: {listing(known)}"
            values[name] = self._fail(path, said, item)
        for name, option in known.items():
            if name in entry.value:
                continue
            place, path = places[name], _join(key, name)
            if option.required:
                values[name] = self._fail(path, f"must be given: {_expected(place)}", entry)
            elif isinstance(place, Leaf) and place.kind and isinstance(option.field.default, str):
                try:
                    registry.find(place.kind, option.field.default)
                except PluginError as error:  # it may be claimed by others than meant it
                    values[name] = self._fail(path, str(error), entry)
        if INVALID in values.values():
            return INVALID
        try:
            return shape.cls(**values)
        except ValueError as error:
            for message in getattr(error, "problems", [str(error)]):
                self._refused(message, entry, key)
            return INVALID

    def _refused(self, message: str, entry: Entry, key: str) -> None:
        """Add what a dataclass said of its options; a message that starts with an option points at it."""
        named = re.match(r"[A-Za-z_0-9]+(\.[A-Za-z_0-9]+)*", message)
        path = named[0] if named else ""
        at: Entry | None = entry
        for name in path.split("."):
            at = at.value.get(name) if at and isinstance(at.value, dict) else None
        if at is None:
            self._fail(key, message, entry)
        else:
            self._fail(_join(key, path), message[len(path) :].lstrip(": "), at)

    def _several(self, shape: Several, entry: Entry, key: str, owner: str) -> Any:
        if not isinstance(entry.value, list):
            return self._fail(key, f"expected {_expected(shape)}, not {entry.shown()}", entry)
        items = [self.build(shape.item, item, f"{key}[{i}]", owner) for i, item in enumerate(entry.value)]
        return INVALID if INVALID in items else items

    def _named(self, shape: Named, entry: Entry, key: str) -> Any:
        if not isinstance(entry.value, dict):
            return self._fail(key, f"expected {_expected(shape)}, not {entry.shown()}", entry)
        items: dict[str, Any] = {}
        ordered = sorted(entry.value)
        for name, item in entry.value.items():
            path = _join(key, name)
            longer = ordered[bisect_left(ordered, f"{name}.") :][:1]
            if shape.keys and name not in shape.keys:
                said = f"there is no part '{name}'.{nearest(name, shape.keys)} Parts: {listing(shape.keys)}"
                items[name] = self._fail(path, said, item)
            elif not NAME.fullmatch(name):
                said = (
                    f"'{name}' is not allowed as the {shape.noun}'s name: use letters, digits, '.', '_' "
                    "and '-', and start with a letter or a digit"
                )
                items[name] = self._fail(path, said, item)
            elif len(name) > MAX_NAME:
                said = f"a name has at most {MAX_NAME} characters, not {len(name)}: folders are called so"
                items[name] = self._fail(path, said, item)
            elif longer and longer[0].startswith(f"{name}."):
                said = f"the names '{name}' and '{longer[0]}' cannot be told apart in dotted keys: rename one"
                items[name] = self._fail(path, said, item)
            else:
                items[name] = self.build(shape.item, item, path, f"{shape.noun} '{name}'")
        return INVALID if INVALID in items.values() else items

    def _component(self, shape: Pluggable, entry: Entry, key: str) -> Any:
        if entry.value is None and shape.optional:
            return None
        kind = shape.kind
        registered, entry = listing(registry.names(kind)), as_section(entry)
        if not isinstance(entry.value, dict):
            return self._fail(key, f"expected {_expected(shape)}, not {entry.shown()}", entry)
        given = dict(entry.value)
        named = given.pop("name", None)
        beside: dict[str, Any] = {}
        if kind in PARTS:
            for option, place in _BESIDE.items():
                if option in given:
                    beside[option] = self.build(place, given.pop(option), f"{key}.{option}", f"'{option}'")
        if named and named.value is UNREAD:
            return INVALID
        if named is None:
            return self._fail(key, f"its name must be given. Registered {kind}s: {registered}", entry)
        if not named.is_scalar or named.value is None:
            said = f"expected a registered name, not {named.shown()}. Registered {kind}s: {registered}"
            return self._fail(f"{key}.name", said, named)
        name = named.text
        try:
            section = self._options_of(kind, name)
        except PluginError as error:
            return self._fail(key, str(error), named)
        config = self._section(section, Entry(given, entry.where), key, f"{kind} '{name}'")
        if INVALID in (config, *beside.values()):
            return INVALID
        return Chosen(kind=kind, name=name, config=config, **beside)

    @staticmethod
    def _options_of(kind: str, name: str) -> Section:
        """Return the shape of a plugin's options.

        Raises:
            PluginError: The plugin cannot be loaded, or its `Config` cannot be read.
        """
        component = registry.load(kind, name)
        plugin, config = registry.find(kind, name), getattr(component, "Config", None)
        if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
            raise PluginError(f"{plugin} has no dataclass called Config")
        try:
            places = shapes(config)
        except (NameError, TypeError) as error:
            raise PluginError(f"{plugin}: the types of its Config cannot be read: {error}") from error
        for option, shape in places.items():
            if option == "name" or (option in OF_PARTS and kind in PARTS):
                raise PluginError(
                    f"{plugin}: its Config cannot have an option '{option}', recipes use that name"
                )
            if isinstance(shape, Leaf) and not is_supported(shape.annotation):
                said = f"its Config's option '{option}' is of a type that a recipe cannot hold"
                raise PluginError(f"{plugin}: {said}: {shape.annotation}")
        return Section(config)

    def _leaf(self, shape: Leaf, entry: Entry, key: str) -> Any:
        rest, _ = without_none(shape.annotation)
        if get_origin(rest) is list and isinstance(entry.value, list):
            return self._several(Several(Leaf(get_args(rest)[0])), entry, key, "")
        if get_origin(rest) is dict and isinstance(entry.value, dict):
            inner = Leaf(get_args(rest)[1])
            found = {name: self.build(inner, item, f"{key}.{name}", "") for name, item in entry.value.items()}
            return INVALID if INVALID in found.values() else found
        try:
            found = convert(shape.annotation, entry)
            if shape.kind:
                registry.find(shape.kind, found)
        except (NotOfTypeError, PluginError) as error:
            return self._fail(key, str(error), entry)
        return found

    def _bounded(self, annotation: Any, found: Any, entry: Entry, key: str) -> Any:
        """Return a value that is in its own bounds, or INVALID; what it holds was looked at before."""
        for problem in [] if found is INVALID else list(out_of_bounds(annotation, found, key)):
            path, _, said = problem.partition(": ")
            found = self._fail(path, said, entry)
        return found


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key and name else key or name


def _expected(shape: Shape) -> str:
    if isinstance(shape, Section):
        return f"a section with {listing(shapes(shape.cls))}{' or null' if shape.optional else ''}"
    if isinstance(shape, Several):
        return f"a list, each {_expected(shape.item)}"
    if isinstance(shape, Named):
        return f"a section of {shape.noun}s by name"
    if isinstance(shape, Pluggable):
        kind, null = shape.kind, ", or null" if shape.optional else ""
        return (
            f"the name of a registered {kind} ({listing(registry.names(kind))}), or a section with it{null}"
        )
    return describe_type(shape.annotation)
