"""Datasets on disk: the shards of one name, read record by record in any order."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.index import ShardIndex
from kikimimi.data.record import Record
from kikimimi.data.record import read_record as parse_record
from kikimimi.errors import DataError, RequestError

_OPEN_FILES = 64  # per dataset and process
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_GLOB = re.compile(r"[*?\[]")
_MADE = "'kikimimi data pack' makes shards; 'kikimimi quickstart' makes those of its own recipe"


def expand(pattern: str) -> list[Path]:
    """Return the shards that a pattern names, in order.

    Args:
        pattern: A path with braces (``train-{000..255}.tar``, ``{train,extra}.tar``) and wildcards
            (``data/*.tar``).

    Raises:
        RequestError: A shard is missing or named twice, nothing matches, or it is a pipe or a URL.
    """
    if pattern.startswith("pipe:") or "://" in pattern:
        raise RequestError(f"{pattern}: shards are read from local paths; pipes and URLs are refused")
    paths: list[Path] = []
    for name in _expand_braces(pattern):
        path = Path(name).expanduser()
        if _GLOB.search(name):
            found = [Path(match) for match in sorted(glob.glob(str(path)))]
            if not found:
                raise RequestError(f"{pattern}: nothing matches {name}. {_MADE}")
            paths.extend(found)
        elif path.is_dir():
            raise RequestError(f"{pattern}: {name} is a folder. Its shards are: {path / '*.tar'}")
        elif not path.is_file():
            raise RequestError(f"{pattern}: shard {name} does not exist. {_MADE}")
        else:
            paths.append(path)
    seen: set[Path] = set()
    for path in paths:
        if path.suffix != ".tar":
            raise RequestError(f"{pattern}: {path} is not a shard (.tar)")
        if path in seen:
            raise RequestError(f"{pattern}: names {path} twice")
        seen.add(path)
    return paths


def _expand_braces(pattern: str) -> list[str]:
    braces = _BRACES.search(pattern)
    if braces is None:
        if "{" in pattern or "}" in pattern:
            raise RequestError(f"{pattern}: a brace is not closed or not opened")
        return [pattern]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    if bounds := _RANGE.fullmatch(braces[1]):
        first, last = int(bounds[1]), int(bounds[2])
        if last < first:
            raise RequestError(f"{pattern}: the range {braces[0]} runs backwards")
        width = len(bounds[1]) if bounds[1].startswith("0") else 0
        inner = [f"{number:0{width}d}" for number in range(first, last + 1)]
    elif "," in braces[1]:
        inner = braces[1].split(",")
    else:
        raise RequestError(f"{pattern}: {braces[0]} is neither a range ({{000..255}}) nor a list ({{a,b}})")
    return [name for item in inner for name in _expand_braces(f"{before}{item}{after}")]


def read_record(index: ShardIndex, row: int) -> Record:
    """Read one record of a shard and verify its hash.

    Raises:
        DataError: The shard has changed since it was indexed, or the record is malformed.
    """
    descriptor = _open(index.shard)
    try:
        return _read(index, row, descriptor)
    finally:
        os.close(descriptor)


def _open(shard: Path) -> int:
    try:
        return os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{shard}: cannot be opened: {error.strerror}") from error


def _read(index: ShardIndex, row: int, descriptor: int) -> Record:
    offset, size = int(index.offsets[row]), int(index.sizes[row])
    pieces: list[bytes] = []
    while (missing := size - sum(map(len, pieces))) > 0:
        # pread moves no file position: descriptors may be shared with forked processes.
        piece = os.pread(descriptor, missing, offset + size - missing)
        if not piece:
            raise DataError(f"{index.where(row)}: the shard ends {missing} bytes too early: truncated?")
        pieces.append(piece)
    span = b"".join(pieces)
    if hashlib.sha256(span).digest() != index.hashes[row].tobytes():
        raise DataError(
            f"{index.where(row)}: the bytes are not those that were indexed (SHA-256 differs): the shard is "
            f"damaged or was replaced. If it is right as it is: kikimimi data index {index.shard}"
        )
    return parse_record(span, str(index.shard), offset)


class Shards:
    """The records of several shards under one name, laid end to end.

    May be sent to other processes: files are opened where and when they are read.

    Args:
        name: The dataset's name in the recipe.
        pattern: Names the shards (see `expand`).

    Raises:
        RequestError: A shard or an index is missing, or there is no record at all.
        DataError: An index is stale or malformed.

    Attributes:
        indexes: Of the shards, in order.
        seconds: (rows,) float32: total length of each record's clips [s].
        characters: (rows,) int64: length of each record's texts [characters].
        clips: (rows,) int32: number of clips of each record.
        digest: SHA-256 (hex) over the shards' contents in order.
    """

    def __init__(self, name: str, pattern: str) -> None:
        self.name = name
        self.indexes = tuple(ShardIndex.load(path) for path in expand(pattern))
        self._ends = np.cumsum([len(index) for index in self.indexes], dtype=np.int64)
        self._descriptors: dict[int, int] = {}
        self.seconds: NDArray[np.float32] = self._column("seconds")
        self.characters: NDArray[np.int64] = self._column("characters")
        self.clips: NDArray[np.int32] = self._column("clips")
        if not len(self):
            raise RequestError(f"{name}: the shards {pattern} hold no record")
        self.digest = hashlib.sha256("\n".join(index.digest for index in self.indexes).encode()).hexdigest()

    def _column(self, name: str) -> NDArray[Any]:
        return np.concatenate([getattr(index, name) for index in self.indexes])

    def __len__(self) -> int:
        return len(self.seconds)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def _locate(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"{self.name}: row {row} of {len(self)}")
        shard = int(np.searchsorted(self._ends, row, side="right"))
        return shard, row - (int(self._ends[shard - 1]) if shard else 0)

    def key(self, row: int) -> str:
        """Return the key of a record."""
        shard, row = self._locate(row)
        return self.indexes[shard].key(row)

    def where(self, row: int) -> str:
        """Return the place of a record, as messages name it."""
        shard, row = self._locate(row)
        return self.indexes[shard].where(row)

    def sha256(self, row: int) -> str:
        """Return the SHA-256 (hex) of a record's bytes in its shard."""
        shard, row = self._locate(row)
        return bytes(self.indexes[shard].hashes[row]).hex()

    def read(self, row: int) -> Record:
        """Read a record and verify its hash.

        Raises:
            DataError: A shard has changed since it was indexed, or the record is malformed.
        """
        shard, row = self._locate(row)
        index = self.indexes[shard]
        if shard not in self._descriptors:
            if len(self._descriptors) >= _OPEN_FILES:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[shard] = _open(index.shard)
        return _read(index, row, self._descriptors[shard])
