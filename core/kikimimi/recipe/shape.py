"""The shapes of a recipe's places, read off the schema: what may stand where."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from kikimimi.recipe.chosen import Chosen


@dataclass(frozen=True)
class Section:
    """A mapping with the options of a dataclass, or null where that is `optional`."""

    cls: type[Any]
    optional: bool = False


@dataclass(frozen=True)
class Several:
    """A list of sections."""

    item: Section


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
class Component:
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


Shape = Section | Several | Named | Component | Leaf


@dataclass(frozen=True)
class Option:
    """One field of a dataclass, as YAML spells it.

    Attributes:
        field: The Python name.
        shape: What may stand there.
        required: It has no default.
    """

    field: str
    shape: Shape
    required: bool


def without_none(annotation: Any) -> tuple[Any, bool]:
    """Return the type without None, and whether None was part of it."""
    if get_origin(annotation) in (Union, types.UnionType):
        members = get_args(annotation)
        rest = [member for member in members if member is not type(None)]
        if len(rest) < len(members):
            return Union[tuple(rest)], True  # noqa: UP007 - built at run time
    return annotation, False


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def _shape(annotation: Any, metadata: Mapping[str, Any]) -> Shape:
    rest, optional = without_none(annotation)
    if rest is Chosen:
        return Component(metadata["kind"], optional)
    if _is_section(rest):
        return Section(rest, optional)
    if get_origin(annotation) is list and _is_section(get_args(annotation)[0]):
        return Several(Section(get_args(annotation)[0]))
    if get_origin(annotation) is dict:
        item = get_args(annotation)[1]
        if _is_section(item):
            keys = metadata.get("keys", ())
            noun = metadata.get("noun") or ("part" if keys else item.__name__.lower())
            return Named(_shape(item, metadata), noun, keys)
    return Leaf(annotation, metadata.get("kind"))


def options(cls: type[Any]) -> dict[str, Option]:
    """Return the options of a dataclass by the name that YAML uses.

    Raises:
        NameError: A field's annotation names something that does not exist at run time.
    """
    return _options(cast(Any, cls))


@cache
def _options(cls: Any) -> dict[str, Option]:
    hints = get_type_hints(cls)
    return {
        item.metadata.get("key", item.name): Option(
            item.name,
            _shape(hints[item.name], item.metadata),
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING,
        )
        for item in dataclasses.fields(cls)
        if item.init
    }


def inside(shape: Shape | None, key: str) -> Shape | None:
    """Return the shape at a key of a section or mapping; None where the schema does not say."""
    if isinstance(shape, Named):
        return shape.item
    if isinstance(shape, Section) and key in options(shape.cls):
        return options(shape.cls)[key].shape
    return None
