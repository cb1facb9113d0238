"""Datasets on disk: the shards of one name, read record by record in any order."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.index import ShardIndex
from kikimimi.data.record import Record, place
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
        span = _Span(index.shard, int(index.offsets[row]), int(index.sizes[row]), index.key(row))
        return span.read(descriptor, index.hashes[row].tobytes())
    finally:
        os.close(descriptor)


def _open(shard: str) -> int:
    try:
        return os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(f"{shard}: cannot be opened: {error.strerror}") from error


class _Span(NamedTuple):
    shard: str
    offset: int
    size: int
    key: str

    def read(self, descriptor: int, sha256: bytes) -> Record:
        pieces: list[bytes] = []
        while (missing := self.size - sum(map(len, pieces))) > 0:
            # pread moves no file position: descriptors may be shared with forked processes.
            piece = os.pread(descriptor, missing, self.offset + self.size - missing)
            if not piece:
                raise DataError(f"{self.where}: the shard ends {missing} bytes too early: truncated?")
            pieces.append(piece)
        span = b"".join(pieces)
        if hashlib.sha256(span).digest() != sha256:
            raise DataError(
                f"{self.where}: the bytes are not those that were indexed (SHA-256 differs): the shard is "
                f"damaged or was replaced. If it is right as it is: kikimimi data index {self.shard}"
            )
        return parse_record(span, self.shard, self.offset)

    @property
    def where(self) -> str:
        return place(self.shard, self.offset, self.key)


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
        shards: Paths or URLs of the shards, in order.
        digest: SHA-256 (hex) over the shards' contents in order.
        offsets: (rows,) int64: where each record begins in its shard [bytes].
        sizes: (rows,) int64: its length there [bytes].
        seconds: (rows,) float32: total length of each record's clips [s].
        characters: (rows,) int32: length of each record's texts [characters].
        clips: (rows,) int32: number of clips of each record.
        longest: (rows,) float32: length of each record's longest clip [s]; 0 without clips.
        clip_seconds: (clips,) float32: length of each clip of each record, end to end [s].
        languages: (rows,) int16: position in `language_names`; -1 where the record names none.
        licenses: (rows,) int16: position in `license_names`; -1 where the record names none.
        language_names: As the records name them, sorted.
        license_names: As the records name them, sorted.
        rejected: Records that were left out when the shards were indexed: place and reason of each.
    """

    def __init__(self, name: str, pattern: str) -> None:
        self.name = name
        indexes = [ShardIndex.load(path) for path in expand(pattern)]
        self.shards = tuple(index.shard for index in indexes)
        self.digest = hashlib.sha256("\n".join(index.digest for index in indexes).encode()).hexdigest()
        self.rejected = tuple(
            (place(index.shard, item.offset, item.key or None), item.reason)
            for index in indexes
            for item in index.rejected
        )
        self._ends = np.cumsum([len(index) for index in indexes], dtype=np.int64)
        self._descriptors: dict[int, int] = {}
        if not len(self):
            raise RequestError(f"{name}: the shards {pattern} hold no record")
        self.offsets: NDArray[np.int64] = _joined(indexes, "offsets")
        self.sizes: NDArray[np.int64] = _joined(indexes, "sizes")
        self.seconds: NDArray[np.float32] = _joined(indexes, "seconds")
        self.characters: NDArray[np.int32] = _joined(indexes, "characters")
        self.clips: NDArray[np.int32] = _joined(indexes, "clips")
        self.longest: NDArray[np.float32] = _joined(indexes, "longest")
        self.clip_seconds: NDArray[np.float32] = _joined(indexes, "clip_seconds")
        self.language_names, self.languages = _coded(indexes, "language")
        self.license_names, self.licenses = _coded(indexes, "license")
        self._hashes: NDArray[np.uint8] = _joined(indexes, "hashes")
        self._keys: NDArray[np.uint8] = _joined(indexes, "key_bytes")
        lengths = [np.diff(index.key_ends, prepend=np.int64(0)) for index in indexes]
        self._key_ends: NDArray[np.int64] = np.cumsum(np.concatenate(lengths))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def _checked(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(f"{self.name}: row {row} of {len(self)}")
        return row

    def _shard(self, row: int) -> int:
        return int(np.searchsorted(self._ends, self._checked(row), side="right"))

    def key(self, row: int) -> str:
        """Return the key of a record."""
        begin = int(self._key_ends[row - 1]) if self._checked(row) else 0
        return self._keys[begin : int(self._key_ends[row])].tobytes().decode("utf-8")

    def where(self, row: int) -> str:
        """Return the place of a record, as messages name it."""
        return place(self.shards[self._shard(row)], int(self.offsets[row]), self.key(row))

    def sha256(self, row: int) -> str:
        """Return the SHA-256 (hex) of a record's bytes in its shard."""
        return bytes(self._hashes[self._checked(row)]).hex()

    def read(self, row: int) -> Record:
        """Read a record and verify its hash.

        Raises:
            DataError: A shard has changed since it was indexed, or the record is malformed.
        """
        shard = self._shard(row)
        if shard not in self._descriptors:
            if len(self._descriptors) >= _OPEN_FILES:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[shard] = _open(self.shards[shard])
        span = _Span(self.shards[shard], int(self.offsets[row]), int(self.sizes[row]), self.key(row))
        return span.read(self._descriptors[shard], self._hashes[row].tobytes())


def _joined(indexes: Sequence[ShardIndex], column: str) -> NDArray[Any]:
    return np.concatenate([getattr(index, column) for index in indexes])


def _coded(indexes: Sequence[ShardIndex], field: str) -> tuple[tuple[str, ...], NDArray[np.int16]]:
    """Give the shards' codes of a field one meaning."""
    names = tuple(sorted({name for index in indexes for name in getattr(index, f"{field}_names")}))
    if len(names) > np.iinfo(np.int16).max:
        raise DataError(f"the shards name {len(names)} different {field}s: is the field used so?")
    code = {name: number for number, name in enumerate(names)}
    pieces = []
    for index in indexes:
        # The last entry is what -1 points to.
        own = np.array([*(code[name] for name in getattr(index, f"{field}_names")), -1], dtype=np.int16)
        pieces.append(own[getattr(index, f"{field}s")])
    return names, np.concatenate(pieces)
