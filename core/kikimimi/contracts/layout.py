"""The contract of a layout: a corpus as it is downloaded, row by row, ready to be packed into shards."""

import hashlib
import json
import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from kikimimi.contracts.options import Options


@dataclass(kw_only=True, frozen=True)
class LayoutConfig(Options):
    """Base of every layout's nested `Config`."""


@dataclass(frozen=True)
class Segment:
    """A part of an audio file: a stretch of time, one channel, or both.

    Attributes:
        source: The audio file, or the bytes of it.
        start: Where it begins [s].
        seconds: Its length [s]; None goes on to the end of the file.
        channel: Number of its channel, from 0; None averages all of them.
        slack: Where the file ends no further than this from its end, it ends there, too [s]: for a length
            that was told roughly, and is that of the whole file as a rule.
    """

    source: Path | bytes
    start: float = 0.0
    seconds: float | None = None
    channel: int | None = None
    slack: float = 0.0


Clip = Path | bytes | Segment
"""What a layout may give as a clip."""


def clip_name(name: str, clip: Clip) -> str:
    """Return what messages call a clip of a file or a row: of a segment also which, ``a.wav [2.00-4.00 s]``.

    A name that ends so already is left as it is, and so is that of a file whose length was told roughly.
    """
    if not isinstance(clip, Segment):
        return name
    parts = []
    if clip.seconds is not None and not clip.slack:
        parts.append(f"{_three(clip.start)}-{_three(clip.start + clip.seconds)} s")
    elif clip.start:
        parts.append(f"from {_three(clip.start)} s")
    if clip.channel is not None:
        parts.append(f"channel {clip.channel}")
    ending = f" [{', '.join(parts)}]" if parts else ""
    return name if name.endswith(ending) else name + ending


def _three(seconds: float) -> str:
    return f"{seconds:.3f}".removesuffix("0") if seconds < 1e9 else f"{seconds:g}"


def as_on_disk(path: Path) -> Path:
    """Return a path as the disk spells it, where that differs in Unicode normalisation only.

    macOS takes letters apart where others write them as one, and lists of files move between systems. A name
    of which there is nothing, or more than one thing, is returned as it is.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    parent = as_on_disk(path.parent)
    if path.name.isascii():
        return parent / path.name
    try:
        spellings = _spellings(parent, parent.stat().st_mtime_ns)
    except (OSError, ValueError):
        return path
    found = spellings.get(unicodedata.normalize("NFC", path.name), ())
    return parent / (found[0] if len(found) == 1 else path.name)


@lru_cache(maxsize=4)  # a corpus with many missing files looks into the same folders again and again
def _spellings(folder: Path, changed: int) -> dict[str, list[str]]:
    """Return the names in a folder that normalisation may change, by their composed form."""
    names: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        if not name.isascii():
            names.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return names


@dataclass(frozen=True)
class Row:
    """One row of a corpus: what becomes a record, unless it is left out.

    Attributes:
        name: What messages and the ledger call it, such as the path of its audio file as the corpus has it.
        record: The record's JSON: a labelled clip (``text``, ``language``, ``meta``; without ``text`` where
            ``meta`` holds other labels) or a conversation (``messages``, ``rejected``, ``meta``) whose audio
            parts name clips by number: ``"0"``, ``"1"``.
            ``meta`` holds whatever else is known, the licence under ``license``.
        clips: Audio files, the bytes of them, or segments of either, in order. A file that is not there is
            left out with its row.
    """

    name: str
    record: dict[str, Any]
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class BadRow:
    """A row of a corpus that cannot be read. It is left out as malformed and counted; the others are packed.

    Attributes:
        name: What messages and the ledger call it, such as its place (``list.csv:7``).
        reason: What is wrong, and what is allowed.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class ExampleCorpus:
    """A small corpus of a layout, for the checks of plugins.

    Attributes:
        files: Content of each file by its path in the corpus's folder: a text, bytes, or None for a clip of
            half a second in the format that its suffix names (``.wav``, ``.flac``, ``.mp3``, ``.ogg``).
        path: What a user gives, relative to that folder.
        config: The options, an instance of `Config`; None for the defaults.
    """

    files: Mapping[str, str | bytes | None]
    path: str = "."
    config: Any = None


class Layout(ABC):
    """Reads a corpus. Built as `Layout(path, config)`, once in each process that packs; without torch.

    Args:
        path: What the user gave: a folder, a file, or what else the layout takes.
        config: Instance of `Config`.

    Raises:
        RequestError: It is not there, or is not laid out like this; the message says what was looked for.
        DataError: It is, but nothing in it can be read. One row that cannot is a `BadRow`.
    """

    Config: ClassVar[type[LayoutConfig]]

    def __init__(self, path: str, config: Any) -> None:
        self.path = path
        self.config = config

    @classmethod
    @abstractmethod
    def matches(cls, path: Path) -> bool:
        """Tell by a cheap look whether this is how `path` is laid out; for packing without a named layout."""

    @classmethod
    def example(cls) -> ExampleCorpus:
        """Return a corpus of at least two rows, all of them good, that the checks of plugins read.

        Raises:
            NotImplementedError: There is none; then the checks fail.
        """
        raise NotImplementedError

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        """Yield the rows from `begin` to before `end`, in an order that never changes.

        A row that cannot be read is given as a `BadRow` in its place: one row ends no corpus.
        """

    def fingerprint(self, begin: int, end: int) -> str:
        """Return a hash (hex) of what these rows are made of: equal as long as nothing has changed.

        Files count by path, size and time, bytes by their content.
        """
        digest = hashlib.sha256()
        for row in self.rows(begin, end):
            if isinstance(row, BadRow):
                digest.update(json.dumps([row.name, row.reason]).encode() + b"\n")
                continue
            states = [_state(clip) for clip in row.clips]
            digest.update(_line([row.name, row.record, states]) + b"\n")
        return digest.hexdigest()


def _line(row: list[Any]) -> bytes:
    """Return a row as one line: escaped, and with what JSON lacks, as it may hold what cannot be packed."""
    try:
        return json.dumps(row, sort_keys=True, default=repr).encode()
    except (TypeError, ValueError):  # keys that are no texts
        return ascii(row).encode()
    except RecursionError:  # it cannot be packed either
        return ascii([row[0], row[2]]).encode()


def _state(clip: Clip) -> list[Any]:
    if isinstance(clip, Segment):
        return [*_state(clip.source), clip.start, clip.seconds, clip.channel, clip.slack]
    if isinstance(clip, bytes):
        return [hashlib.sha256(clip).hexdigest()]
    try:
        stat = as_on_disk(clip).stat()
    except (OSError, ValueError):  # packing says why
        return [str(clip)]
    return [str(clip), stat.st_size, stat.st_mtime_ns]
