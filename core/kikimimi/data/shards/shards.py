"""Datasets on disk: the shards of one name, read record by record in any order."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.shards.columns import Column, NameColumn
from kikimimi.data.shards.index import LeftOut, ShardIndex
from kikimimi.data.shards.record import Record, RecordError, place, read_record
from kikimimi.data.shards.remote import check_url, is_url, list_urls
from kikimimi.data.shards.store import Store
from kikimimi.errors import DataError, RequestError

_COLUMNS: dict[str, type[np.generic]] = {
    "offsets": np.int64,
    "sizes": np.int64,
    "seconds": np.float32,
    "characters": np.int32,
    "clips": np.int32,
    "longest": np.float32,
    "clip_seconds": np.float32,
    "hashes": np.uint8,
    "key_bytes": np.uint8,
    "key_ends": np.int64,
}
_FETCHERS = 16  # indexes that are fetched at a time
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_GLOB = re.compile(r"[*?\[]")
_MADE = "'kikimimi data pack' makes shards; 'kikimimi quickstart' makes those of its own recipe"


def expand(pattern: str) -> list[str]:
    """Return the shards that a pattern names, in order.

    Args:
        pattern: A path or a URL with braces (``train-{000..255}.tar``,
            ``{train,extra}.tar``) and wildcards (``data/*.tar``), where the place can list its files.

    Raises:
        RequestError: A shard is missing or named twice, nothing matches, it is a pipe, or a URL that is not
            read.
        StorageError: An object store does not answer.
    """
    if pattern.startswith("pipe:"):
        raise RequestError(f"{pattern}: pipes are refused; shards are files or URLs")
    shards: list[str] = []
    for name in _expand_braces(pattern):
        if is_url(name):
            check_url(name)
            found = list_urls(name) if _GLOB.search(name) else [name]
        else:
            name = str(Path(name).expanduser())
            found = sorted(glob.glob(name)) if _GLOB.search(name) else [_existing(name, pattern)]
        if not found:
            raise RequestError(f"{pattern}: nothing matches {name}. {_MADE}")
        shards.extend(found)
    seen: set[str] = set()
    for shard in shards:
        if not shard.endswith(".tar"):
            raise RequestError(f"{pattern}: {shard} is not a shard (.tar)")
        if shard in seen:
            raise RequestError(f"{pattern}: names {shard} twice")
        seen.add(shard)
    return shards


def _existing(name: str, pattern: str) -> str:
    path = Path(name)
    if path.is_dir():
        raise RequestError(f"{pattern}: {name} is a folder. Its shards are: {path / '*.tar'}")
    if not path.is_file():
        raise RequestError(f"{pattern}: shard {name} does not exist. {_MADE}")
    return name


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


class Shards:
    """The records of several shards under one name, laid end to end.

    May be sent to other processes: files are opened, and servers asked, where and when they are read.

    Args:
        name: The dataset's name in the recipe.
        pattern: Names the shards (see `expand`).

    Raises:
        RequestError: A shard or an index is missing, or there is no record at all.
        DataError: An index is stale or malformed.
        StorageError: A server does not answer.

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
        shards: list[str] = []
        totals: list[int] = []
        digests: list[str] = []
        ends = [0]
        left_out: list[LeftOut] = []
        columns = {
            column: Column(dtype, width=32 if column == "hashes" else None)
            for column, dtype in _COLUMNS.items()
        }
        languages, licenses = NameColumn(), NameColumn()
        keys = 0
        for index in _load(expand(pattern)):
            shards.append(index.shard)
            totals.append(index.shard_bytes)
            digests.append(index.digest)
            ends.append(ends[-1] + len(index))
            left_out.extend(index.left_out())
            for column, values in columns.items():
                values.append(
                    getattr(index, column) + keys if column == "key_ends" else getattr(index, column)
                )
            keys += len(index.key_bytes)
            try:
                languages.append(index.languages, index.language_names)
                licenses.append(index.licenses, index.license_names)
            except ValueError as error:
                raise DataError(
                    f"{index.shard}: languages or licences: {error}: are the fields used so?"
                ) from error
        if not ends[-1]:
            raise RequestError(f"{name}: the shards {pattern} hold no record")
        self.shards = tuple(shards)
        self.digest = hashlib.sha256("\n".join(digests).encode()).hexdigest()
        self.rejected = tuple(left_out)
        self.offsets: NDArray[np.int64] = columns["offsets"].finish()
        self.sizes: NDArray[np.int64] = columns["sizes"].finish()
        self.seconds: NDArray[np.float32] = columns["seconds"].finish()
        self.characters: NDArray[np.int32] = columns["characters"].finish()
        self.clips: NDArray[np.int32] = columns["clips"].finish()
        self.longest: NDArray[np.float32] = columns["longest"].finish()
        self.clip_seconds: NDArray[np.float32] = columns["clip_seconds"].finish()
        self.language_names, self.languages = languages.finish()
        self.license_names, self.licenses = licenses.finish()
        self._hashes: NDArray[np.uint8] = columns["hashes"].finish()
        self._keys: NDArray[np.uint8] = columns["key_bytes"].finish()
        self._key_ends: NDArray[np.int64] = columns["key_ends"].finish()
        self._ends = np.array(ends[1:], dtype=np.int64)
        self._totals = tuple(totals)
        self._store = Store()

    def __len__(self) -> int:
        return int(self._ends[-1])

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
            StorageError: The shard cannot be reached.
        """
        shard = self._shard(row)
        name, offset, size = self.shards[shard], int(self.offsets[row]), int(self.sizes[row])
        span = self._store.read(name, offset, size, self._totals[shard])
        if len(span) < size:
            missing = size - len(span)
            raise RecordError(self.where(row), f"the shard ends {missing} bytes too early: truncated?")
        if hashlib.sha256(span).digest() != self._hashes[row].tobytes():
            raise RecordError(
                self.where(row),
                "the bytes are not those that were indexed (SHA-256 differs): the shard is damaged or was "
                f"replaced. If it is right as it is: kikimimi data index {name}",
            )
        return read_record(span, name, offset)


def _load(shards: Sequence[str]) -> Iterator[ShardIndex]:
    if not any(map(is_url, shards)):
        yield from map(ShardIndex.load, shards)
        return
    # Waiting for a server is most of the work; what comes first in order is still reported first.
    with ThreadPoolExecutor(_FETCHERS) as pool:
        yield from pool.map(ShardIndex.load, shards)
