"""What is read from disk is held against limits before it is read, and against a type after that."""

import codecs
import errno
import fnmatch
import functools
import glob
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from kikimimi.console.terminal import shortened, visible
from kikimimi.console.words import size as in_words
from kikimimi.errors import DamagedError

T = TypeVar("T")

MEBIBYTE = 1 << 20
"""2^20 bytes."""
MAX_JSON_DEPTH = 200
"""Deepest nesting of JSON that is read [levels], whatever the stack would take."""
_OF_NO_FILE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_LARGEST_LINES = 1 << 30
_NO_JSON = "is not JSON"
_TOO_DEEP = f"nested too deeply (more than {MAX_JSON_DEPTH} levels)"


def read_bytes(path: Path, *, limit: int, remedy: str = "") -> bytes:
    """Read a file whole, if it is no larger than expected.

    Args:
        path: The file.
        limit: Largest size that is read [bytes]; one that is larger is not touched.
        remedy: What people can do about it where it cannot be read: ``Delete it: it is made again``.

    Raises:
        DamagedError: It is not there, no file, too large, or cannot be read.
        OSError: The system refuses to read it; see `unreadable`.
    """
    try:
        # A pipe without a writer would be waited for without end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            os.close(descriptor)  # of a folder, no file object can be made
            raise damaged(path, "is not a file", remedy)
        with os.fdopen(descriptor, "rb") as file:
            if state.st_size > limit:
                raise damaged(
                    path, f"is {in_words(state.st_size)} large; at most {in_words(limit)} are read", remedy
                )
            return file.read(state.st_size + 1)  # room for the limit would be asked for at once
    except OSError as error:
        raise unreadable(path, error, remedy) from error


def read_text(path: Path, *, limit: int, remedy: str = "") -> str:
    """Read a file of UTF-8 whole; a byte order mark is left out.

    Raises:
        DamagedError: As `read_bytes`; or it is not UTF-8.
    """
    try:
        return read_bytes(path, limit=limit, remedy=remedy).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise damaged(path, f"is not UTF-8 (at byte {error.start})", remedy) from error


def read_json(path: Path, kind: type[T], *, limit: int = MEBIBYTE, remedy: str = "") -> T:
    """Read a JSON file of a known form.

    Args:
        path: The file.
        kind: What it holds: a dataclass, a TypedDict, ``dict[str, float]``.
        limit: Largest size [bytes].
        remedy: What people can do about a damaged file.

    Raises:
        DamagedError: As `read_bytes`; or it is not JSON, nested without end, or of another form.
    """
    content = read_bytes(path, limit=limit, remedy=remedy)
    try:
        return parse_json(content, kind)
    except ValueError as error:
        raise damaged(path, str(error), remedy) from error


def read_json_lines(
    path: Path,
    kind: type[T],
    *,
    limit: int = _LARGEST_LINES,
    remedy: str = "",
    line_remedy: str = "",
    check: Callable[[T], object] = bool,
    damaged_lines: list[str] | None = None,
) -> list[T]:
    """Read a file that holds JSON of a known form on every line; where there is none, no line.

    Lines end at line feeds alone. A last line that lacks its line feed, and holds the beginning of a section
    (``{...``), was cut short by a kill: it is left out.

    Args:
        path: The file.
        kind: What each line holds.
        limit: Largest size [bytes].
        remedy: What people can do about a damaged file.
        line_remedy: What they can do about a damaged line, if that is something else.
        check: Raises a ValueError for a line of the right form that says what cannot be.
        damaged_lines: Takes what is wrong with each damaged line, which is then left out; None makes it an
            error.

    Raises:
        DamagedError: As `read_bytes`; or a line is damaged.
    """
    if not file_there(path, remedy):
        return []
    content = read_bytes(path, limit=limit, remedy=remedy).removeprefix(codecs.BOM_UTF8)
    *lines, last = content.split(b"\n")
    found = []
    for number, line in enumerate([*lines, last], start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line, kind)
            check(value)
            found.append(value)
        except ValueError as error:
            if number > len(lines) and line.startswith(b"{") and str(error).startswith(_NO_JSON):
                break
            if damaged_lines is None:
                raise damaged(path, f"line {number}: {error}", line_remedy or remedy) from error
            damaged_lines.append(f"line {number}: {error}")
    return found


def file_there(path: Path, remedy: str = "") -> bool:
    """Tell whether a file of ours is there.

    Raises:
        DamagedError: Its name is that of something else: a folder, or a link that leads nowhere or to itself.
        OSError: The system refuses to look.
    """
    return _there(path, stat.S_ISREG, "a file", remedy)


def folder_there(path: Path, remedy: str = "") -> bool:
    """Tell whether a folder of ours is there.

    Raises:
        DamagedError: Its name is that of something else: a file, or a link that leads nowhere or to itself.
        OSError: The system refuses to look.
    """
    return _there(path, stat.S_ISDIR, "a folder", remedy)


def _there(path: Path, is_kind: Callable[[int], bool], kind: str, remedy: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise damaged(path, "is a symbolic link that leads nowhere", remedy) from error
    except OSError as error:
        raise unreadable(path, error, remedy) from error
    if not is_kind(mode):
        raise damaged(path, f"is not {kind}", remedy)
    return True


def paths_in(folder: Path, pattern: str) -> list[Path]:
    """Return what below a folder matches a pattern, sorted; where there is no such folder, nothing.

    `Path.glob` passes over folders that it may not look into.

    Args:
        folder: Where it is looked for.
        pattern: Names with wildcards, as ``*/*.tar``; hidden ones match where the pattern begins with a dot.

    Raises:
        OSError: The system refuses to look into one of the folders.
    """
    part, _, rest = pattern.strip("/").partition("/")
    if glob.has_magic(part):
        try:
            names = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        shown = [name for name in names if name[0] != "." or part[0] == "."]
        found = fnmatch.filter(shown, part)
    else:
        found = [part] if os.path.lexists(folder / part) else []
    paths = [folder / name for name in found]
    return [path for inside in paths for path in paths_in(inside, rest)] if rest else paths


def parse_json(content: bytes | str, kind: type[T]) -> T:
    """Return what JSON of a known form holds.

    Raises:
        ValueError: It is not JSON, nested without end, or of another form.
    """
    from pydantic import ValidationError

    try:
        value: T = _adapter(cast(Any, kind)).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise ValueError(f"{_NO_JSON}: {first['msg'].removeprefix('Invalid JSON: ')}") from error
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(f"{shortened(visible(place), 80)}: {first['msg']}") from error
    return value


def parse_any_json(text: str) -> Any:
    """Return what JSON of any form holds: what is no number in JSON (NaN, Infinity) is one here.

    Raises:
        ValueError: It is not JSON, or nested deeper than `MAX_JSON_DEPTH`.
    """
    deep = text.count("[") + text.count("{") > MAX_JSON_DEPTH
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    if deep and _deeper(value):
        raise ValueError(_TOO_DEEP)
    return value


def _deeper(value: Any) -> bool:
    """Tell whether a value is nested deeper than `MAX_JSON_DEPTH`."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        nested = [item.values() if isinstance(item, dict) else item for item in level if _nests(item)]
        level = [inner for items in nested for inner in items]
    return any(map(_nests, level))


def _nests(value: Any) -> bool:
    return isinstance(value, dict | list)


def damaged(path: Path, problem: str, remedy: str = "") -> DamagedError:
    """Return the error that says what is wrong with a file, and what to do."""
    return DamagedError(f"{path}: {problem}{f'. {remedy}' if remedy else ''}")


def unreadable(
    path: Path, error: Exception, remedy: str = "", what: str = "cannot be read: "
) -> DamagedError:
    """Return the error that says why a file, or a folder with one of its files, cannot be read.

    Args:
        path: The file or folder.
        error: What was met.
        remedy: What people can do about it.
        what: What comes before the reason.

    Raises:
        OSError: What was met says nothing of the file: no permission, too many open files, no memory.
    """
    reason = str(error)
    if isinstance(error, OSError):
        if error.errno in _OF_NO_FILE:
            raise error
        name = Path(str(error.filename)).name if error.filename not in (None, str(path), path) else ""
        reason = f"{name}: {error.strerror}" if name else error.strerror or reason
    return damaged(path, f"{what}{reason}", remedy)


@functools.lru_cache(maxsize=64)
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
