"""A recipe as YAML."""

import dataclasses
import enum
import hashlib
from pathlib import PurePath
from typing import Any

import yaml
from yaml.resolver import Resolver as OldResolver

from kikimimi.console.terminal import visible
from kikimimi.files.yaml_text import TAG, Resolver
from kikimimi.recipe.chosen import OF_PARTS, PARTS, Chosen
from kikimimi.recipe.schema import Recipe

_OURS = (TAG + "timestamp", TAG + "float")


class _Dumper(yaml.SafeDumper):
    """Quotes what a reader of YAML 1.2, as ours, or of 1.1 would take for something else than text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class declares it
        first: [
            *(rule for rule in OldResolver.yaml_implicit_resolvers.get(first, []) if rule[0] not in _OURS),
            *Resolver.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {*OldResolver.yaml_implicit_resolvers, *Resolver.yaml_implicit_resolvers} - {"="}
    }


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # What Unicode counts as line breaks, a reader would fold to a space where it is not escaped; and where
    # there are quotation marks, what a terminal shows as an escape is one.
    return dumper.represent_scalar(TAG + "str", text, '"' if visible(text, lines=True) != text else None)


_Dumper.add_representer(str, _text)


def to_yaml(recipe: Recipe) -> str:
    """Return the recipe as YAML, defaults included; loading it gives an equal recipe."""
    return dump_plain(plain(recipe))


def dump_plain(value: Any) -> str:
    """Return texts, numbers, lists and mappings as YAML that reads as the same, here and by YAML 1.1."""
    return yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=110,
    )


def digest(recipe: Recipe | str) -> str:
    """Return the hexadecimal SHA-256 of a recipe's `to_yaml`, or of that text where it is at hand."""
    text = recipe if isinstance(recipe, str) else to_yaml(recipe)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """Return a value of a recipe as YAML's own types, spelled as a recipe spells them."""
    if isinstance(value, Chosen):
        section = {"name": value.name, **plain(value.config)}
        beside = {option: plain(getattr(value, option)) for option in OF_PARTS}
        return section | beside if value.kind in PARTS else section
    if dataclasses.is_dataclass(value):
        shown = [item for item in dataclasses.fields(value) if item.init]
        return {item.metadata.get("key", item.name): plain(getattr(value, item.name)) for item in shown}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, PurePath):
        return plain(str(value))
    return value.replace("${", "\\${") if isinstance(value, str) else value
