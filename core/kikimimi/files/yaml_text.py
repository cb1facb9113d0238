"""YAML as it is read here, everywhere: plain data within limits, by the core schema of YAML 1.2.2.

`010` is 10, `0o17` is 15 and `1e5` a number; `1:30`, `1_000`, `no`, `yes`, `on` and dates are texts. U+0085,
U+2028 and U+2029 end no line.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.resolver import Resolver as OldResolver

from kikimimi.console.words import size as in_words
from kikimimi.files.reading import MEBIBYTE, damaged, read_text

MAX_YAML = MEBIBYTE
"""Largest recipe that is read [bytes]."""
MAX_DATA = 8 * MEBIBYTE
"""Largest other YAML that is read: grammars with their lists of words [bytes]."""
MAX_ENTRIES = 500_000
"""Most entries that YAML may hold, its aliases expanded."""
MAX_NODES = 50_000
"""Most keys and values of a recipe, or of another file whose lines messages name."""
MAX_DEPTH = 40
"""Deepest nesting of YAML [levels]."""

TAG = "tag:yaml.org,2002:"
"""What the tags of YAML's own types begin with."""
_BREAKS = {0x85: "\U0001fffe", 0x2028: "\U0001ffff", 0x2029: "\U0002fffe"}
"""What PyYAML takes for ends of lines, as YAML 1.1 did, and what stands in its place while it reads."""
_BREAK = re.compile("[\x85\u2028\u2029]")
_PLACES = {ord(place): chr(character) for character, place in _BREAKS.items()}
_NUMBERS = list("-+0123456789")
_RULES = (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _NUMBERS),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", [*_NUMBERS, "."]),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
)


class Resolver(OldResolver):
    """Tells numbers, truth and null from texts, as YAML 1.2 does."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the base class declares it


for _name, _pattern, _first in _RULES:
    Resolver.add_implicit_resolver(TAG + _name, re.compile(f"(?:{_pattern})$"), _first)


def _number(loader: Any, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(loader: Any, node: yaml.ScalarNode) -> float:
    # PyYAML's own takes `!!float '1:30'` for 90, as YAML 1.1 did.
    return float(str(loader.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        if key.tag == TAG + "merge":
            continue
        name = (key.tag, str(key.value))
        if name in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"{key.value!r} is given twice", key.start_mark
            )
        seen.add(name)
    loader.flatten_mapping(node)
    return dict(yaml.constructor.BaseConstructor.construct_mapping(loader, node, deep=True))


class YamlLoader(Resolver, yaml.SafeLoader):
    """Reads YAML; its messages are the better ones."""

    _nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, if there are not too many: 20,000 take a second."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise YamlError(f"holds more than {MAX_NODES:,} keys and values")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Compose a text, a number and so on."""
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        node.value = _with_breaks(node.value)
        return node


class _QuickLoader(Resolver, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML ten times as fast."""

    _merged = 0

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        """Return the text of a scalar."""
        value = super().construct_scalar(node)
        return _with_breaks(value) if isinstance(value, str) else value

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what is merged (``<<``) into a mapping, if all that is merged is not too much."""
        for key, value in node.value:
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in merged if key.tag == TAG + "merge" else ():
                if isinstance(source, yaml.MappingNode):
                    self.flatten_mapping(source)
                    self._merged += len(source.value)
                if self._merged > MAX_ENTRIES:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"'<<' makes more than {MAX_ENTRIES:,} entries", node.start_mark
                    )
        super().flatten_mapping(node)


for _loader in (YamlLoader, _QuickLoader):
    _loader.add_constructor(TAG + "int", _number)
    _loader.add_constructor(TAG + "float", _float)
_QuickLoader.add_constructor(TAG + "map", _mapping)


class YamlError(ValueError):
    """A text is not YAML, or beyond a limit.

    Attributes:
        line: Where, or None.
    """

    def __init__(self, said: str, line: int | None = None) -> None:
        super().__init__(said)
        self.line = line


def compose_yaml(text: str) -> yaml.Node | None:
    """Return what YAML is made of; None where it is empty.

    Raises:
        YamlError: It is not YAML, too large, or nested without end.
    """
    _check_size(text, MAX_YAML)
    try:
        node: yaml.Node | None = yaml.compose(_without_breaks(text), YamlLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise _told(error) from error
    return node


def parse_yaml(text: str) -> Any:
    """Return the data that YAML holds: texts, numbers, true, false, null, lists and mappings.

    Raises:
        YamlError: It is not YAML, too large, nested without end, or gives a key twice.
    """
    _check_size(text, MAX_DATA)
    try:
        data = yaml.load(_without_breaks(text), _QuickLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _told(error) from error
    except (AttributeError, KeyError) as error:  # of PyYAML: `!!timestamp today`, `!!bool maybe`
        raise YamlError("a tag stands on a text that is no such value") from error
    _check_entries(data)
    return data


def read_yaml(path: Path) -> Any:
    """Return the data of a YAML file.

    Raises:
        DamagedError: It cannot be read, is too large, or is not YAML.
    """
    try:
        return parse_yaml(read_text(path, limit=MAX_DATA))
    except YamlError as error:
        raise damaged(path, str(error)) from error


def _without_breaks(text: str) -> str:
    return text.translate(_BREAKS) if _BREAK.search(text) else text


def _with_breaks(text: str) -> str:
    return text if text.isascii() else text.translate(_PLACES)


def _check_size(text: str, limit: int) -> None:
    if len(text) > limit:
        raise YamlError(f"is {in_words(len(text))} large; at most {in_words(limit)} are read")


def _check_entries(data: Any) -> None:
    count, inside = 0, [(data, 0)]
    while inside:
        value, depth = inside.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise YamlError(f"nested deeper than {MAX_DEPTH} levels")
        if count > MAX_ENTRIES:
            raise YamlError(f"holds more than {MAX_ENTRIES:,} entries once its aliases are expanded")
        if isinstance(value, dict):
            inside.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, list):
            inside.extend((item, depth + 1) for item in value)


def _told(error: Exception) -> YamlError:
    if isinstance(error, RecursionError):
        return YamlError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(error, yaml.MarkedYAMLError):
        parts = [part for part in (error.context, error.problem) if part]
        mark = error.problem_mark or error.context_mark
        return YamlError(f"not YAML: {', '.join(parts)}", mark.line + 1 if mark else None)
    if isinstance(error, yaml.reader.ReaderError):
        return YamlError(f"not YAML: {error.reason} (character number {error.position + 1})")
    return YamlError(f"not YAML: {error}")
