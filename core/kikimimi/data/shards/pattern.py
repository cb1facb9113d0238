"""Which shards a pattern names: braces and wildcards, as shells know them. What exists is taken literally."""

import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kikimimi.console.terminal import shortened
from kikimimi.contracts.layout import as_on_disk
from kikimimi.data.shards.store import check_url, is_url, list_urls
from kikimimi.errors import DamagedError, RequestError
from kikimimi.files.reading import file_there, paths_in

MAX_SHARDS = 1_000_000
"""How many names the braces of a pattern may stand for."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_DIGITS = 18  # of a number in a range
_GLOB = re.compile(r"[*?\[]")
_MADE = "'kikimimi data pack' makes shards; 'kikimimi quickstart' makes those of its own recipe"


class NoShardError(RequestError):
    """A pattern names no shard that there is.

    Attributes:
        pattern: What was asked for.
    """

    def __init__(self, pattern: str, message: str) -> None:
        super().__init__(message)
        self.pattern = pattern


@contextmanager
def patterns_of(recipe: Path | None) -> Iterator[None]:
    """Expand patterns of a recipe: where one names nothing seen from here, say if it does beside the recipe.

    Args:
        recipe: Its file; a run folder, or None, has nothing beside it.

    Raises:
        NoShardError: One does.
    """
    try:
        yield
    except NoShardError as error:
        if recipe is None or not recipe.is_file():
            raise
        folder, pattern = Path(os.path.normpath(recipe.absolute())).parent, error.pattern
        if is_url(pattern) or os.path.isabs(pattern) or folder == Path.cwd():
            raise
        beside = str(folder / pattern)
        try:
            found = expand(beside)
        except RequestError:
            raise error from None
        raise NoShardError(
            pattern,
            f"{error}. Beside the recipe there is {found[0]}: start in {folder}, or write {beside} in the "
            "recipe",
        ) from None


def expand(pattern: str) -> list[str]:
    """Return the shards that a pattern names, in order.

    Args:
        pattern: A path or a URL with braces (``train-{000..255}.tar``,
            ``{train,extra}.tar``) and wildcards (``data/*.tar``), where the place can list its files. A path
            that exists means itself, and so does a folder that exists at its beginning; either may be spelt
            in another normal form of Unicode on the disk.

    Raises:
        NoShardError: A shard is missing, or nothing matches.
        RequestError: A shard is named twice, braces stand for more than `MAX_SHARDS` names, it is a pipe, or
            a URL that is not read.
        StorageError: An object store does not answer.
    """
    if pattern.startswith("pipe:"):
        raise RequestError(f"{pattern}: pipes are refused; shards are files or URLs")
    shards: list[str] = []
    for name in _names(pattern):
        found = _urls(name) if is_url(name) else _files(name, pattern)
        if not found:
            raise NoShardError(pattern, f"{pattern}: nothing matches {name}. {_MADE}{_seen_from(name)}")
        shards.extend(found)
    seen: set[str] = set()
    for shard in shards:
        if not shard.lower().endswith(".tar"):
            raise RequestError(f"{pattern}: {shard} is not a shard (.tar)")
        if shard in seen:
            raise RequestError(f"{pattern}: names {shard} twice")
        seen.add(shard)
    return shards


def _names(pattern: str) -> Iterator[str]:
    """Yield what the braces of a pattern stand for."""
    if is_url(pattern):
        folder, rest = "", pattern
    else:
        folder, rest = _literal(os.path.expanduser(pattern))
    _check_count(rest, pattern)
    # Numbers that braces make may be bounds of a range around them, whose names are not counted above.
    for number, name in enumerate(_expanded(rest, pattern)):
        if number == MAX_SHARDS:
            raise _too_many(pattern, f"more than {MAX_SHARDS:,}")
        yield folder + name


def _literal(path: str) -> tuple[str, str]:
    """Part a path into the longest beginning that exists, as the disk spells it, and the rest."""
    path = path if path.isascii() else str(as_on_disk(Path(path)))
    if os.path.lexists(path):
        return path, ""
    folder = os.path.dirname(path)
    while folder and not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return path[: len(folder)], path[len(folder) :]


def _files(name: str, pattern: str) -> list[str]:
    folder, rest = _literal(name)
    if _GLOB.search(rest):
        place = Path(folder or ".")
        spellings = {rest, *(unicodedata.normalize(form, rest) for form in ("NFC", "NFD"))}
        found = {path for spelt in spellings for path in paths_in(place, spelt)}
        return sorted(os.path.join(folder, path.relative_to(place)) for path in found)
    name = str(Path(folder + rest))
    if os.path.isdir(name):
        raise RequestError(f"{pattern}: {name} is a folder. Its shards are: {os.path.join(name, '*.tar')}")
    if not os.path.isfile(name):
        try:
            if os.path.lexists(name):
                file_there(Path(name))
        except DamagedError as error:
            raise RequestError(f"{pattern}: shard {error}") from error
        raise NoShardError(pattern, f"{pattern}: shard {name} does not exist. {_MADE}{_seen_from(name)}")
    return [name]


def _urls(name: str) -> list[str]:
    check_url(name)
    return list_urls(name) if _GLOB.search(name) else [name]


def _seen_from(name: str) -> str:
    return "" if is_url(name) or os.path.isabs(name) else f". Relative paths begin in {os.getcwd()}"


def _check_count(text: str, pattern: str) -> None:
    """Check that braces stand for no more names than are read."""
    count = 1
    while braces := _BRACES.search(text):
        count *= len(_inner(braces[1], pattern))
        if count > MAX_SHARDS:
            raise _too_many(
                pattern, f"{count:,}" if "{" not in text[braces.end() :] else f"{count:,} or more"
            )
        text = text[: braces.start()] + text[braces.end() :]


def _too_many(pattern: str, number: str) -> RequestError:
    said = shortened(pattern, 200)
    return RequestError(
        f"{said}: its braces stand for {number} names; at most {MAX_SHARDS:,} shards are read"
    )


def _expanded(text: str, pattern: str) -> Iterator[str]:
    braces = _BRACES.search(text)
    if braces is None:
        if "{" in text or "}" in text:
            raise RequestError(f"{pattern}: a brace is not closed or not opened")
        yield text
        return
    for item in _inner(braces[1], pattern):
        yield from _expanded(text[: braces.start()] + str(item) + text[braces.end() :], pattern)


class _Range:
    """The numbers of a range as texts, without holding them."""

    def __init__(self, first: str, last: str) -> None:
        self._numbers = range(int(first), int(last) + 1)
        self._width = len(first) if first.startswith("0") else 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[str]:
        return (f"{number:0{self._width}d}" for number in self._numbers)


def _inner(inside: str, pattern: str) -> _Range | list[str]:
    """Return what one pair of braces stands for."""
    if bounds := _RANGE.fullmatch(inside):
        if max(map(len, bounds.groups())) > _MAX_DIGITS:
            raise RequestError(f"{pattern}: a number in {{{inside[:40]}}} has more than {_MAX_DIGITS} digits")
        if int(bounds[2]) < int(bounds[1]):
            raise RequestError(f"{pattern}: the range {{{inside}}} runs backwards")
        return _Range(*bounds.groups())
    if "," in inside:
        return inside.split(",")
    raise RequestError(f"{pattern}: {{{inside}}} is neither a range ({{000..255}}) nor a list ({{a,b}})")
