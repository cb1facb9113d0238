"""Converts what stands in a recipe to the type of the option that it sets."""

from __future__ import annotations

import dataclasses
import enum
import types
from functools import cache
from pathlib import Path, PurePath
from typing import Any, Literal, Union, cast, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kikimimi.console.words import nearest
from kikimimi.recipe.shape import without_none
from kikimimi.recipe.source import Entry

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


class NotOfTypeError(Exception):
    """The value is not of the option's type; the message says what is expected."""


def describe(annotation: Any) -> str:
    """Return a type as a message names it: ``a whole number or null``."""
    rest, optional = without_none(annotation)
    if optional:
        return f"{describe(rest)} or null"
    origin, args = get_origin(rest), get_args(rest)
    if origin is Literal:
        return f"one of {', '.join(str(choice) for choice in args)}"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(member) for member in args)
    if origin is dict:
        return f"a section whose values are each {describe(args[1])}"
    if origin is tuple and args[-1:] != (Ellipsis,):
        return f"a list of {len(args)}: {', '.join(describe(member) for member in args)}"
    if origin in (list, tuple):
        return f"a list, each {describe(args[0])}"
    if isinstance(rest, type) and issubclass(rest, enum.Enum):
        return f"one of {', '.join(rest.__members__)}"
    return _NAMES.get(rest, getattr(rest, "__name__", str(rest)))


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
    raise NotOfTypeError(f"expected {describe(annotation)}, not {entry.shown()}.{guess}".rstrip("."))


def _scalar(annotation: Any, value: Any) -> Any:
    if isinstance(value, str) and ("${" in value or value == "???"):
        return None  # OmegaConf would take it for its own syntax
    try:
        return cast(Any, OmegaConf.merge(_typed(annotation), {"value": value}))["value"]
    except OmegaConfBaseException:
        return None


def _member(members: tuple[Any, ...], entry: Entry, annotation: Any) -> Any:
    # An exact match first: for `int | str`, 3 is a number and '3' a text.
    for member in sorted(members, key=lambda member: member is not type(entry.value)):
        try:
            return convert(member, entry)
        except NotOfTypeError:
            continue
    raise NotOfTypeError(f"expected {describe(annotation)}, not {entry.shown()}")


def _plain(entry: Entry) -> Any:
    if isinstance(entry.value, dict):
        return {name: _plain(item) for name, item in entry.value.items()}
    if isinstance(entry.value, list):
        return [_plain(item) for item in entry.value]
    return entry.value
