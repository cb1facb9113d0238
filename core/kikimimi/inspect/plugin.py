"""What a plugin is and which options it has, in words: for its page on the command line, and for the docs."""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kikimimi.contracts.options import Option, declared, describe_bounds, describe_type
from kikimimi.contracts.registry import Plugin, kind_of, load
from kikimimi.recipe.chosen import Chosen
from kikimimi.recipe.shape import Leaf, Named, Pluggable, Section, Several, Shape, shapes
from kikimimi.recipe.show import plain


@dataclass(frozen=True)
class OptionInWords:
    """An option of a plugin or a recipe, in words.

    Attributes:
        name: What YAML calls it.
        value: What may stand there, with its bounds.
        default: Its default as YAML spells it, or that it must be given.
        about: Its docstring, in one line.
    """

    name: str
    value: str
    default: str
    about: str


@dataclass(frozen=True)
class PluginInWords:
    """A plugin in words.

    Attributes:
        contract: What it subclasses.
        contract_version: Version of that contract.
        about: First paragraph of its docstring, in one line.
        options: Its options, those of sections by dotted names.
    """

    contract: str
    contract_version: int
    about: str
    options: tuple[OptionInWords, ...]


def plugin_in_words(plugin: Plugin) -> PluginInWords:
    """Import a plugin and say what it is.

    Raises:
        PluginError: It cannot be imported, or another distribution claims its name.
    """
    component = load(plugin.kind, f"{plugin.distribution}:{plugin.name}")
    config = getattr(component, "Config", None)
    options = () if config is None else tuple(_with_sections(config))
    kind = kind_of(plugin.kind)
    contract = f"kikimimi.{kind.base.rpartition(':')[2]}"
    return PluginInWords(contract, kind.contract_version, summary(component), options)


def _with_sections(cls: type[Any], prefix: str = "") -> Iterator[OptionInWords]:
    for option, shape in zip(options_in_words(cls), shapes(cls).values(), strict=True):
        yield dataclasses.replace(option, name=prefix + option.name)
        if isinstance(shape, Section):
            yield from _with_sections(shape.cls, f"{prefix}{option.name}.")


def options_in_words(cls: type[Any]) -> list[OptionInWords]:
    """Return the options of a dataclass in words, in its order."""
    return [
        OptionInWords(
            name,
            _value(shape) + ("" if isinstance(shape, Leaf) else describe_bounds(option.annotation)),
            _default(option),
            one_line(option.docstring),
        )
        for (name, option), shape in zip(declared(cls).items(), shapes(cls).values(), strict=True)
    ]


def _value(shape: Shape) -> str:
    """Return what may stand at a place, in words."""
    if isinstance(shape, Leaf):
        return describe_type(shape.annotation) if shape.kind is None else f"name of a {shape.kind}"
    if isinstance(shape, Pluggable):
        return f"{_article(shape.kind)}: its name, or a section with its name and options"
    if isinstance(shape, Named):
        inner = _article(shape.item.kind) if isinstance(shape.item, Pluggable) else "a section"
        names = ", ".join(f"`{key}`" for key in shape.keys) if shape.keys else f"{shape.noun} names"
        return f"by {names}: {inner} each"
    if isinstance(shape, Several):
        return "a list of sections"
    return "a section or null" if shape.optional else "a section"


def _article(noun: str) -> str:
    """Return the noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" if noun != "llm" else "an LLM"


def _default(option: Option) -> str:
    """Return an option's default as YAML spells it."""
    found = option.default
    if found is dataclasses.MISSING:
        return "must be given"
    if isinstance(found, Chosen):
        return f"`{found.name}`"
    if dataclasses.is_dataclass(found):
        return "its defaults"
    if isinstance(found, str):
        return f"`{found}`" if found and found.isprintable() else f"`{json.dumps(found)}`"
    return f"`{json.dumps(plain(found))}`".replace('"', "")


def summary(documented: Any) -> str:
    """Return the first paragraph of a docstring, of a class or a function, in one line."""
    return one_line((inspect.getdoc(documented) or "").partition("\n\n")[0])


def one_line(text: str) -> str:
    """Return a docstring's text in one line, with Markdown's backticks and YAML's null."""
    return re.sub(r"\bNone\b", "null", " ".join(text.replace("``", "`").split()))
