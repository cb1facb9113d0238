"""The sidecar index of a shard: where each record lies, how long it is, and its hash.

``train-000000.tar`` has ``train-000000.tar.index.safetensors``. With it, reading is random access, and the
order of training is planned without touching the audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.shards.index_builder import make_index
from kikimimi.data.shards.index_file import OtherVersionError, Rejected, read_columns
from kikimimi.data.shards.record import place
from kikimimi.data.shards.remote import fetch, is_url
from kikimimi.data.whole_file import whole_file
from kikimimi.errors import DataError, RequestError

SUFFIX = ".index.safetensors"
"""What the name of an index adds to that of its shard."""


class LeftOut(NamedTuple):
    """A record that was left out when its shard was indexed.

    Attributes:
        where: Its place.
        reason: What is wrong with it.
    """

    where: str
    reason: str


@dataclass(frozen=True)
class ShardIndex:
    """The index of one shard, in columns; row i is the i-th record.

    Attributes:
        shard: The tar: a path, or a URL.
        shard_bytes: Size of the tar [bytes].
        digest: SHA-256 (hex) of the index's columns: the content of the shard, whatever its name.
        offsets: (rows,) int64: first header of the record [bytes].
        sizes: (rows,) int64: from there to the end of its last member, padding included [bytes].
        seconds: (rows,) float32: total length of its clips [s].
        characters: (rows,) int32: length of all its texts [characters].
        hashes: (rows, 32) uint8: SHA-256 of the bytes from `offsets` on, `sizes` long.
        clip_seconds: (clips,) float32: length of each clip of each record, end to end [s].
        clip_ends: (rows,) int64: where each record's clips end in `clip_seconds`.
        languages: (rows,) int16: position in `language_names`, or -1 where the record names none.
        licenses: (rows,) int16: position in `license_names`, or -1 where the record names none.
        key_bytes: (bytes,) uint8: the keys, UTF-8, end to end.
        key_ends: (rows,) int64: where each key ends in `key_bytes`.
        language_names: Languages as the records name them, sorted.
        license_names: Licences as the records name them, sorted.
        rejected: Records that were left out when the index was made.
    """

    shard: str
    shard_bytes: int
    digest: str
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    seconds: NDArray[np.float32]
    characters: NDArray[np.int32]
    hashes: NDArray[np.uint8]
    clip_seconds: NDArray[np.float32]
    clip_ends: NDArray[np.int64]
    languages: NDArray[np.int16]
    licenses: NDArray[np.int16]
    key_bytes: NDArray[np.uint8]
    key_ends: NDArray[np.int64]
    language_names: tuple[str, ...]
    license_names: tuple[str, ...]
    rejected: tuple[Rejected, ...]

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def clips(self) -> NDArray[np.int32]:
        """(rows,) int32: how many clips each record has."""
        return np.diff(self.clip_ends, prepend=np.int64(0)).astype(np.int32)

    @property
    def longest(self) -> NDArray[np.float32]:
        """(rows,) float32: length of each record's longest clip [s]; 0 without clips."""
        clips = self.clips
        longest = np.zeros(len(self), dtype=np.float32)
        some = clips > 0
        if some.any():
            longest[some] = np.maximum.reduceat(self.clip_seconds, (self.clip_ends - clips)[some])
        return longest

    def key(self, row: int) -> str:
        """Return the key of a record."""
        begin = int(self.key_ends[row - 1]) if row else 0
        return self.key_bytes[begin : int(self.key_ends[row])].tobytes().decode("utf-8")

    def where(self, row: int) -> str:
        """Return the place of a record, as messages name it."""
        return place(self.shard, int(self.offsets[row]), self.key(row))

    def left_out(self) -> list[LeftOut]:
        """Return what was left out, as messages name it."""
        return [
            LeftOut(place(self.shard, item.offset, item.key or None), item.reason) for item in self.rejected
        ]

    @classmethod
    def load(cls, shard: Path | str) -> Self:
        """Read the index beside a shard.

        Args:
            shard: A path or a URL; the index of a URL is fetched.

        Raises:
            RequestError: The shard or its index does not exist, or access to it is denied.
            DataError: The index is malformed, or is not of this version of the shard.
            StorageError: The server does not answer.
        """
        if is_url(str(shard)):
            return cls._fetch(str(shard))
        shard = Path(shard)
        path = index_path(shard)
        if not shard.is_file():
            raise RequestError(f"{shard}: no such shard")
        if not path.is_file():
            if (old := _old_path(shard)).is_file():
                raise RequestError(f"{shard}: its index {old.name} is of an older version. {_again(shard)}")
            raise RequestError(f"{shard}: has no index. Make it with: kikimimi data index {shard}")
        index = cls.parse(path.read_bytes(), str(shard), str(path), _again(shard))
        if index.shard_bytes != (size := shard.stat().st_size):
            raise DataError(
                f"{path}: is stale: made when the shard had {index.shard_bytes} bytes, now it has {size}. "
                f"{_again(shard)}"
            )
        return index

    @classmethod
    def _fetch(cls, shard: str) -> Self:
        # That the shard itself is there and still the same is found when it is read: every record has a hash.
        url = f"{shard}{SUFFIX}"
        make = "Make it with 'kikimimi data index' where the shard is a local file, and upload both"
        try:
            data = fetch(url)
        except RequestError as error:
            raise RequestError(f"{error}. Every shard needs its index beside it. {make}") from error
        return cls.parse(data, shard, url, make)

    @classmethod
    def parse(cls, data: bytes, shard: str, name: str, advice: str) -> Self:
        """Read an index from the bytes of its file.

        Args:
            data: The file.
            shard: The path or URL of the shard.
            name: What messages call the file.
            advice: How to get another; messages end with it.

        Raises:
            DataError: It is malformed.
        """
        try:
            header, columns = read_columns(data)
        except OtherVersionError as error:
            raise DataError(f"{name}: {error}. {advice}") from error
        except ValueError as error:
            raise DataError(f"{name}: is malformed ({error}). {advice}") from error
        return cls(
            shard=shard,
            shard_bytes=header["bytes"],
            digest=header["digest"],
            language_names=tuple(header["languages"]),
            license_names=tuple(header["licenses"]),
            rejected=tuple(Rejected(*item) for item in header["rejected"]),
            **columns,
        )


def index_path(shard: Path) -> Path:
    """Return where the index of a shard lies."""
    return shard.with_name(f"{shard.name}{SUFFIX}")


def _again(shard: Path) -> str:
    return f"Make it again with: kikimimi data index {shard}"


def _old_path(shard: Path) -> Path:
    return shard.with_name(f"{shard.name}.index.jsonl")


def build_index(shard: Path, *, skip: bool = False) -> Path:
    """Read a shard through and write its index beside it, all of it or nothing.

    Args:
        shard: The tar.
        skip: Leave malformed records out, and list them in the index (`ShardIndex.rejected`). Of a shard that
            breaks off, the records before the break are kept.

    Raises:
        RequestError: The shard does not exist.
        DataError: The shard is damaged or a record is malformed, and `skip` is off; or not one record of it
            can be used.
    """
    if not shard.is_file():
        raise RequestError(f"{shard}: no such shard")
    data = make_index(shard, skip=skip)
    path = index_path(shard)
    with whole_file(path) as unfinished:
        unfinished.write_bytes(data)
    _old_path(shard).unlink(missing_ok=True)
    return path
