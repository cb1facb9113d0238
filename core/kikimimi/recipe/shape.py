"""The shapes of a recipe's places, read off the schema: what may stand where, and how it is converted."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import PurePath
from typing import Any, Literal, Union, cast, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kikimimi.console.words import nearest
from kikimimi.contracts.options import declared, describe_type, without_none
from kikimimi.recipe.chosen import Chosen
from kikimimi.recipe.source import Entry


@dataclass(frozen=True)
class Section:
    """A mapping with the options of a dataclass, or null where that is `optional`."""

    cls: type[Any]
    optional: bool = False


@dataclass(frozen=True)
class Several:
    """A list of things of one shape."""

    item: Shape


@dataclass(frozen=True)
class Named:
    """A mapping of free names, or of the `keys` alone, to things of one shape.

    Attributes:
        item: Shape of each value.
        noun: What each value is called in messages.
        keys: The only names allowed; empty means any.
    """

    item: Shape
    noun: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pluggable:
    """A plugin's name, or a section with its name and options, or null where that is `optional`."""

    kind: str
    optional: bool = False


@dataclass(frozen=True)
class Leaf:
    """A value that is not merged.

    Attributes:
        annotation: Its type.
        kind: Kind of the plugin that it names, or None.
    """

    annotation: Any
    kind: str | None = None


Shape = Section | Several | Named | Pluggable | Leaf


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _shape(annotation: Any, metadata: Mapping[str, Any]) -> Shape:
    rest, optional = without_none(annotation)
    origin, args = get_origin(rest), get_args(rest)
    if rest is Chosen:
        return Pluggable(metadata["kind"], optional)
    if _is_section(rest):
        return Section(rest, optional)
    if origin is list and _is_section(args[0]):
        return Several(Section(args[0]))
    if origin is dict:
        item = args[1]
        if _is_section(item):
            keys = get_args(args[0])
            noun = metadata.get("noun") or ("part" if keys else item.__name__.lower())
            return Named(_shape(item, metadata), noun, keys)
    return Leaf(annotation, metadata.get("kind"))


def shapes(cls: type[Any]) -> dict[str, Shape]:
    """Return what may stand at the options of a dataclass, by the name that YAML uses.

    Raises:
        NameError, TypeError: See `declared`.
    """
    return _shapes(cast(Any, cls))


@cache
def _shapes(cls: Any) -> dict[str, Shape]:
    return {name: _shape(option.annotation, option.field.metadata) for name, option in declared(cls).items()}


def inside(shape: Shape | None, key: str) -> Shape | None:
    """Return the shape at a key of a section or mapping; None where the schema does not say."""
    if isinstance(shape, Named):
        return shape.item
    return shapes(shape.cls).get(key) if isinstance(shape, Section) else None


class NotOfTypeError(Exception):
    """The value is not of the option's type; the message says what is expected."""


@cache
def _typed(annotation: Any) -> Any:
    return OmegaConf.structured(dataclasses.make_dataclass("Leaf", [("value", annotation, "???")]))


def is_supported(annotation: Any) -> bool:
    """Whether a recipe can set an option of this type."""
    rest, _ = without_none(annotation)
    origin, args = get_origin(rest), get_args(rest)
    if origin is Literal or rest is Any:
        return True
    if origin is dict and args[:1] != (str,):
        return False
    if origin in (list, dict, tuple, Union, types.UnionType):
        return bool(args) and all(is_supported(member) for member in args if member is not Ellipsis)
    if dataclasses.is_dataclass(rest):
        return False  # sections stand alone, in a list, or by name: see `shape`
    try:
        _typed(rest)
    except OmegaConfBaseException:
        return False
    return True


def convert(annotation: Any, entry: Entry) -> Any:
    """Return the entry's value as the type.

    Texts are taken as they are spelled, so that ``language: no`` and ``revision: 1e5`` mean what they say.

    Raises:
        NotOfTypeError: It cannot be.
    """
    rest, optional = without_none(annotation)
    if entry.value is None and optional:
        return None
    origin, args = get_origin(rest), get_args(rest)
    if rest is Any:
        return _plain(entry)
    if origin in (Union, types.UnionType):
        return _member(args, entry, annotation)
    if origin is Literal and entry.is_scalar:
        for choice in args:
            same = entry.text == choice if isinstance(choice, str) else entry.value == choice
            if same and (isinstance(choice, str) or type(entry.value) is type(choice)):
                return choice
    elif origin is list and isinstance(entry.value, list):
        return [convert(args[0], item) for item in entry.value]
    elif origin is tuple and isinstance(entry.value, list):
        members = args[:1] * len(entry.value) if args[-1] is Ellipsis else args
        if len(members) == len(entry.value):
            return tuple(convert(member, item) for member, item in zip(members, entry.value, strict=True))
    elif origin is dict and isinstance(entry.value, dict):
        return {name: convert(args[1], item) for name, item in entry.value.items()}
    elif entry.is_scalar and entry.value is not None and origin is None:
        if rest is str:
            return entry.text
        if isinstance(rest, type) and issubclass(rest, PurePath):
            return rest(entry.text)
        converted = _scalar(rest, entry.value)
        if converted is not None:
            return converted
    guess = nearest(entry.text, [str(choice) for choice in args]) if origin is Literal else ""
    raise NotOfTypeError(f"expected {describe_type(annotation)}, not {entry.shown()}.{guess}".rstrip("."))


@lru_cache(maxsize=4096, typed=True)  # OmegaConf takes a millisecond, and recipes repeat themselves
def _scalar(annotation: Any, value: Any) -> Any:
    if isinstance(value, str) and ("${" in value or value == "???" or not value.isascii()):
        return None  # OmegaConf would take it for its own syntax, or digits of all scripts for numbers
    try:
        return cast(Any, OmegaConf.merge(_typed(annotation), {"value": value}))["value"]
    except OmegaConfBaseException:
        return None


def _member(members: tuple[Any, ...], entry: Entry, annotation: Any) -> Any:
    # An exact match first: for `int | str`, 3 is a number and '3' a text.
    for member in sorted(members, key=lambda member: without_none(member)[0] is not type(entry.value)):
        try:
            return convert(member, entry)
        except NotOfTypeError:
            continue
    raise NotOfTypeError(f"expected {describe_type(annotation)}, not {entry.shown()}")


def _plain(entry: Entry) -> Any:
    if isinstance(entry.value, dict):
        return {name: _plain(item) for name, item in entry.value.items()}
    if isinstance(entry.value, list):
        return [_plain(item) for item in entry.value]
    return entry.value
