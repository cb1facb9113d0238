r"""Replaces ``${key}`` by the value of another key of the recipe.

Nothing else can be inserted: no environment variable, no function. ``\${`` stands for a literal ``${``.
"""

import re

from kikimimi.console.words import listing, nearest
from kikimimi.files.yaml_text import MAX_DEPTH
from kikimimi.recipe.source import MAX_SIZE, UNREAD, Entry, Problems

_INSERT = re.compile(r"(?P<escaped>\\\$\{)|\$\{(?P<key>[A-Za-z0-9][A-Za-z0-9._-]*)\}|(?P<wrong>\$\{[^}]*\}?)")


class _WrongError(Exception):
    pass


def interpolate(tree: Entry, problems: Problems) -> Entry:
    """Return the recipe with every ``${key}`` replaced."""
    return _Interpolation(tree, problems).walk(tree, "")


class _Interpolation:
    def __init__(self, tree: Entry, problems: Problems) -> None:
        self.tree, self.problems = tree, problems
        self.open: list[str] = []
        self.done: dict[str, Entry] = {}

    def walk(self, entry: Entry, key: str) -> Entry:
        if key in self.done:
            return self.done[key]
        try:
            found = self.inner(entry, key)
            if found.size > MAX_SIZE:
                raise _WrongError("becomes too large once its ${...} are expanded")
        except _WrongError as error:
            self.problems.add(key, str(error), entry.where)
            found = Entry(UNREAD, entry.where)
        self.done[key] = found
        return found

    def inner(self, entry: Entry, key: str) -> Entry:
        if isinstance(entry.value, dict):
            inside = {
                name: self.walk(item, f"{key}.{name}".lstrip(".")) for name, item in entry.value.items()
            }
            return Entry(inside, entry.where)
        if isinstance(entry.value, list):
            return Entry([self.walk(item, f"{key}[{i}]") for i, item in enumerate(entry.value)], entry.where)
        if not isinstance(entry.value, str) or "${" not in entry.value:
            return entry
        if key in self.open:
            raise _WrongError(f"{entry.shown()} leads back to itself: {' -> '.join([*self.open, key])}")
        if len(self.open) == MAX_DEPTH:
            raise _WrongError(f"leads on through more than {MAX_DEPTH} keys: {self.open[0]} -> ...")
        self.open.append(key)
        try:
            return self.text(entry)
        finally:
            self.open.pop()

    def text(self, entry: Entry) -> Entry:
        whole = _INSERT.fullmatch(entry.value)
        if whole and whole["key"]:
            found = self.look_up(whole["key"])
            return Entry(found.value, entry.where, found.text)
        pieces, end = [], 0
        for match in _INSERT.finditer(entry.value):
            pieces.append(entry.value[end : match.start()])
            end = match.end()
            if match["wrong"]:
                raise _WrongError(
                    f"'{match['wrong']}' is not allowed: only ${{key}} of another key of the recipe is"
                )
            if match["escaped"]:
                pieces.append("${")
                continue
            found = self.look_up(match["key"])
            if not found.is_scalar:
                raise _WrongError(f"'{match[0]}' is {found.shown()} and cannot be part of a text")
            pieces.append(found.text)
        text = "".join([*pieces, entry.value[end:]])
        return Entry(text, entry.where, text)

    def look_up(self, wanted: str) -> Entry:
        entry, rest, path = self.tree, wanted, ""
        while rest:
            keys = entry.value if isinstance(entry.value, dict) else {}
            # Names may hold dots themselves: the longest one that fits is taken.
            fitting = [name for name in keys if rest == name or rest.startswith(f"{name}.")]
            if not fitting:
                raise _WrongError(
                    f"'${{{wanted}}}': the recipe writes no key '{rest}'{f' in {path}' if path else ''}."
                    f"{nearest(rest, keys)} Keys: {listing(keys)}"
                )
            name = max(fitting, key=len)
            entry, rest, path = keys[name], rest[len(name) + 1 :], f"{path}.{name}".lstrip(".")
        if any(path == key or key.startswith(f"{path}.") for key in self.open):
            raise _WrongError(f"'${{{wanted}}}' leads back to itself: {' -> '.join([*self.open, path])}")
        return self.walk(entry, path)
