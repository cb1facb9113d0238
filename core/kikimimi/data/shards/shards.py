"""Datasets on disk: the shards of one name, read record by record in any order."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.shards.index import COLUMNS, LeftOut, ShardIndex
from kikimimi.data.shards.pattern import expand
from kikimimi.data.shards.record import Record, RecordError, place, read_record
from kikimimi.data.shards.store import Store, is_url
from kikimimi.errors import DataError, RequestError

_OWN = ("clip_ends", "languages", "licenses")  # columns that count through, or name, what is in one shard
_COLUMNS = {name: dtype for name, dtype in COLUMNS.items() if name not in _OWN} | {
    "clips": np.int32,
    "longest": np.float32,
}
_FETCHERS = 16  # indexes that are fetched at a time


class Shards:
    """The records of several shards under one name, laid end to end.

    May be sent to other processes: files are opened, and servers asked, where and when they are read.

    Raises:
        RequestError: A shard or an index is missing, or there is no record at all.
        DataError: An index is stale or malformed.
        StorageError: A server does not answer.

    Attributes:
        shards: Paths or URLs of the shards, in order.
        digest: SHA-256 (hex) over the shards' contents in order.
        offsets, sizes, seconds, characters, clips, longest, clip_seconds: The columns of the indexes
            (`ShardIndex`), end to end.
        languages, licenses: Likewise; (rows,) int16 positions in `language_names` and `license_names`.
        rejected: Records that were left out when the shards were indexed: place and reason of each.
    """

    def __init__(self, name: str, pattern: str) -> None:
        self.name = name
        about: list[tuple[str, int, str, int]] = []
        left_out: list[LeftOut] = []
        columns = {
            column: Column(dtype, width=32 if column == "hashes" else None)
            for column, dtype in _COLUMNS.items()
        }
        languages, licenses = NameColumn(), NameColumn()
        keys = 0
        for index in _load(expand(pattern)):
            about.append((index.shard, index.shard_bytes, index.digest, len(index)))
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
        self.shards: tuple[str, ...]
        self.shards, self._totals, digests, counts = zip(*about, strict=True)
        self._ends: NDArray[np.int64] = np.cumsum(counts, dtype=np.int64)
        if not len(self):
            raise RequestError(f"{name}: the shards {pattern} hold no record")
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
        self._store = Store()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _checked(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(f"{self.name}: row {row} of {len(self)}")
        return row

    def _shard(self, row: int) -> int:
        return int(np.searchsorted(self._ends, self._checked(row), side="right"))

    def rows_of_shards(self) -> list[range]:
        """Return the rows of each shard, in order."""
        ends = [0, *self._ends.tolist()]
        return [range(begin, end) for begin, end in pairwise(ends)]

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


class Column:
    """A column of unknown length.

    What it is made of may be freed piece by piece: at the end there is one copy, without gaps of pieces that
    were kept until all were there.

    Args:
        dtype: Type of its values.
        width: Values per row; None for a column of single values.
    """

    def __init__(self, dtype: type[np.generic], width: int | None = None) -> None:
        self._rest = () if width is None else (width,)
        self._values: NDArray[Any] = np.empty((0, *self._rest), dtype=dtype)
        self._filled = 0

    def append(self, piece: NDArray[Any]) -> None:
        """Add values at the end."""
        needed = self._filled + len(piece)
        if needed > len(self._values):
            # realloc() moves pages rather than copying them; no view is alive.
            self._values.resize((max(needed, len(self._values) * 5 // 4), *self._rest), refcheck=False)
        self._values[self._filled : needed] = piece
        self._filled = needed

    def finish(self) -> NDArray[Any]:
        """Return the values; nothing can be added any more."""
        self._values.resize((self._filled, *self._rest), refcheck=False)
        return self._values


class NameColumn:
    """A column of codes for names, of which each piece has codes of its own; -1 is no name."""

    def __init__(self) -> None:
        self._codes = Column(np.int16)
        self._code_of: dict[str, int] = {}

    def append(self, codes: NDArray[np.int16], names: tuple[str, ...]) -> None:
        """Add codes at the end.

        Raises:
            ValueError: There are more names than codes.
        """
        for name in names:
            self._code_of.setdefault(name, len(self._code_of))
        if len(self._code_of) > np.iinfo(np.int16).max:
            raise ValueError(f"more than {np.iinfo(np.int16).max} different names")
        # The last entry is what -1 points to.
        own = np.array([*(self._code_of[name] for name in names), -1], dtype=np.int16)
        self._codes.append(own[codes])

    def finish(self) -> tuple[tuple[str, ...], NDArray[np.int16]]:
        """Return the names, sorted, and the codes."""
        names = tuple(sorted(self._code_of))
        position = {name: number for number, name in enumerate(names)}
        order = np.array([*(position[name] for name in self._code_of), -1], dtype=np.int16)
        return names, order[self._codes.finish()]
