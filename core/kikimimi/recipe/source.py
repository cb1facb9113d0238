"""Reads the YAML files of recipes into entries that remember where they stand, and gathers their problems.

Only plain data is read: no tag but YAML's own types, no key twice, and a limit on what aliases may expand to.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kikimimi.console.terminal import shortened
from kikimimi.console.words import nearest
from kikimimi.errors import DamagedError, RecipeError
from kikimimi.files.reading import read_bytes
from kikimimi.files.yaml_text import MAX_DEPTH, MAX_YAML, TAG, YamlError, YamlLoader, compose_yaml

MAX_SIZE = 20_000
"""Largest size of a recipe, its aliases and interpolations expanded [entries and 64 characters of text]."""
_MERGE = TAG + "merge"
_SCALARS = {TAG + name for name in ("str", "int", "float", "bool", "null")}


MOST_PROBLEMS = 100
"""How many problems are gathered; more are a fault of the whole."""


class Problems:
    """Gathers problems, each once, in the order in which they are found."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    def add(self, key: str, message: str, where: str) -> None:
        """Add one.

        Args:
            key: Dotted key; empty for the file as a whole.
            message: What is wrong, what is allowed, and the nearest guess.
            where: ``file.yaml:12`` or ``command line: key=value``.

        Raises:
            RecipeError: They have become too many.
        """
        self._lines[f"{key or 'recipe'}: {message} ({where})"] = None
        if len(self._lines) == MOST_PROBLEMS:
            *first, last = self._lines
            raise RecipeError([*first, f"{last}\n  What follows is looked at when these are mended"])

    def raise_any(self) -> None:
        """Raise if there are any.

        Raises:
            RecipeError: Holding all of them.
        """
        if self._lines:
            raise RecipeError(self._lines)


class Unread:
    """Stands for a value that could not be read; its problem was added."""


UNREAD = Unread()


@dataclass(frozen=True)
class Entry:
    """A value and where it stands.

    Attributes:
        value: A mapping or list of entries, a text, a number, true, false or None.
        where: ``file.yaml:12`` or ``command line: key=value``.
        text: How a scalar is spelled: what an option that holds text is set to.
        size: Number of entries inside, this one included; long texts count more.
    """

    value: Any
    where: str
    text: str = ""
    size: int = field(init=False)

    def __post_init__(self) -> None:
        inside: list[Entry] = []
        if isinstance(self.value, dict):
            inside = list(self.value.values())
        elif isinstance(self.value, list):
            inside = self.value
        object.__setattr__(self, "size", 1 + len(self.text) // 64 + sum(entry.size for entry in inside))

    @property
    def is_readable(self) -> bool:
        """Whether everything inside could be read."""
        if isinstance(self.value, dict):
            return all(entry.is_readable for entry in self.value.values())
        if isinstance(self.value, list):
            return all(entry.is_readable for entry in self.value)
        return self.value is not UNREAD

    @property
    def is_scalar(self) -> bool:
        """Whether it is neither a mapping nor a list."""
        return not isinstance(self.value, dict | list)

    def shown(self) -> str:
        """Return the value as a message shows it."""
        if isinstance(self.value, dict):
            return "a section"
        if isinstance(self.value, list):
            return "a list"
        if self.value is None:
            return "null"
        text = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return f"'{text}'"


class _UnreadableError(Exception):
    pass


def read(text: str, file: str, problems: Problems, *, key: str = "", lines: bool = True) -> Entry | None:
    """Read a YAML document.

    Args:
        text: The document.
        file: What to call it in messages.
        problems: Where problems go.
        key: Dotted key of the document in the recipe; empty for the recipe itself.
        lines: Whether it is a file, so that messages give the line; a change on the command line has none.

    Returns:
        The document, or None where nothing could be made of it; then a problem was added.
    """

    def where(mark: yaml.Mark | None) -> str:
        return f"{file}:{mark.line + 1}" if mark and lines else file

    try:
        node = compose_yaml(text)
    except YamlError as error:
        problems.add(key, str(error), f"{file}:{error.line}" if error.line and lines else file)
        return None
    if node is None:
        return Entry(None, file)
    try:
        return _Reading(where, problems).entry(node, key, where(node.start_mark), 0)
    except _UnreadableError as error:
        problems.add(key, str(error), file)
        return None


class _Reading:
    def __init__(self, where: Any, problems: Problems) -> None:
        self.where, self.problems, self.count = where, problems, 0
        self.scalars = YamlLoader("")

    def entry(self, node: yaml.Node, key: str, where: str, depth: int) -> Entry:
        self.count += 1
        if self.count > MAX_SIZE:
            raise _UnreadableError(f"holds more than {MAX_SIZE} entries once its aliases are expanded")
        if depth > MAX_DEPTH:
            raise _UnreadableError(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
            return Entry(self.mapping(node, key, depth), where)
        if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
            items = [
                self.entry(item, f"{key}[{index}]", self.where(item.start_mark), depth + 1)
                for index, item in enumerate(node.value)
            ]
            return Entry(items, where)
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            try:
                return Entry(self.scalars.construct_object(node), where, node.value)
            except (ValueError, KeyError):  # a tag on a text that is no such value, or a long number
                implied: Any = self.scalars.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
                if implied == node.tag:
                    said = f"'{shortened(node.value, 60)}' is too long a number"
                    self.problems.add(key, said, where)
                    return Entry(UNREAD, where)
        tag = node.tag.replace(TAG, "!!")
        self.problems.add(
            key,
            f"the tag {tag} is not allowed here: a recipe holds texts, numbers, true, false, null, "
            "lists and sections",
            where,
        )
        return Entry(UNREAD, where)

    def mapping(self, node: yaml.MappingNode, key: str, depth: int) -> dict[str, Entry]:
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for name_node, value_node in node.value:
            where = self.where(name_node.start_mark)
            if name_node.tag == _MERGE:
                self.merge(merged, self.entry(value_node, f"{key}.<<".lstrip("."), where, depth + 1), key)
                continue
            if not isinstance(name_node, yaml.ScalarNode):
                self.problems.add(key, "a key must be a name, not a list or a section", where)
                continue
            name = name_node.value
            path = f"{key}.{name}" if key else name
            if name in own:
                self.problems.add(path, f"given twice, first in {own[name].where}", where)
            own[name] = self.entry(value_node, path, where, depth + 1)
        return merged | own

    def merge(self, merged: dict[str, Entry], source: Entry, key: str) -> None:
        for section in source.value if isinstance(source.value, list) else [source]:
            if not isinstance(section.value, dict):
                self.problems.add(key, f"'<<' must name a section, not {section.shown()}", section.where)
                continue
            for name, entry in section.value.items():
                merged.setdefault(name, entry)


def read_section(path: Path, problems: Problems, *, key: str = "") -> Entry | None:
    """Read a file that holds a section.

    Returns:
        The section, or None where nothing could be made of the file; then a problem was added.
    """
    try:
        content = read_bytes(path, limit=MAX_YAML)
        entry = read(content.decode("utf-8-sig"), str(path), problems, key=key)
    except UnicodeDecodeError as error:
        problems.add(key, f"not UTF-8 text (byte {error.start})", str(path))
        return None
    except DamagedError as error:
        problems.add(key, str(error).removeprefix(f"{path}: "), str(path))
        return None
    except OSError as error:
        problems.add(key, f"cannot be read: {error.strerror}", str(path))
        return None
    if entry and not isinstance(entry.value, dict):
        said = "is empty" if entry.value is None else f"expected a section, not {entry.shown()}"
        problems.add(key, said, entry.where)
        return None
    return entry


def guess(path: Path) -> str:
    """Return `` Did you mean 'x'?`` for the YAML file beside `path` that is called nearly so."""
    beside = path.parent.glob("*.y*ml") if path.parent.is_dir() else ()
    return nearest(path.name, [file.name for file in beside if file.is_file()])
