"""The sidecar index of a shard: where each record lies, how long it is, and its hash.

``train-000000.tar`` has ``train-000000.tar.index.safetensors``. With it, reading is random access, and the
order of training is planned without touching the audio.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.audio import probe
from kikimimi.data.index_file import OtherVersionError, digest_of, read_columns, write_columns
from kikimimi.data.record import Record, assemble, place, read_members
from kikimimi.errors import AudioError, DataError, RequestError


@dataclass(frozen=True)
class Rejected:
    """A record that an index leaves out.

    Attributes:
        key: Its name, or an empty text where none can be told.
        offset: Of its first header in the shard, or of where the shard breaks off [bytes].
        reason: What is wrong with it.
    """

    key: str
    offset: int
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

    @classmethod
    def load(cls, shard: Path | str) -> Self:
        """Read the index beside a shard.

        Raises:
            RequestError: The shard or its index does not exist.
            DataError: The index is malformed, or is not of this version of the shard.
        """
        shard = Path(shard)
        path = index_path(shard)
        again = f"Make it again with: kikimimi data index {shard}"
        if not shard.is_file():
            raise RequestError(f"{shard}: no such shard")
        if not path.is_file():
            if (old := _old_path(shard)).is_file():
                raise RequestError(f"{shard}: its index {old.name} is of an older version. {again}")
            raise RequestError(f"{shard}: has no index. Make it with: kikimimi data index {shard}")
        index = cls.parse(path.read_bytes(), str(shard), str(path))
        if index.shard_bytes != (size := shard.stat().st_size):
            raise DataError(
                f"{path}: is stale: made when the shard had {index.shard_bytes} bytes, now it has {size}. "
                f"{again}"
            )
        return index

    @classmethod
    def parse(cls, data: bytes, shard: str, name: str) -> Self:
        """Read an index from the bytes of its file.

        Args:
            data: The file.
            shard: The path or URL of the shard.
            name: What messages call the file.

        Raises:
            DataError: It is malformed.
        """
        try:
            header, columns = read_columns(data)
        except OtherVersionError as error:
            raise DataError(f"{name}: {error}. Make it again with: kikimimi data index {shard}") from error
        except ValueError as error:
            raise DataError(
                f"{name}: is malformed ({error}). Make it again with: kikimimi data index {shard}"
            ) from error
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
    return shard.with_name(f"{shard.name}.index.safetensors")


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
        DataError: The shard is damaged or a record is malformed (`kikimimi.data.record`), and `skip` is off;
            or not even the first record can be told from what is there.
    """
    if not shard.is_file():
        raise RequestError(f"{shard}: no such shard")
    builder = _Builder(shard, skip=skip)
    builder.read()
    path = index_path(shard)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_bytes(builder.file())
    unfinished.replace(path)
    _old_path(shard).unlink(missing_ok=True)
    return path


class _Builder:
    def __init__(self, shard: Path, *, skip: bool) -> None:
        self.shard, self.skip = shard, skip
        self.bytes = shard.stat().st_size
        self.rows: list[dict[str, Any]] = []
        self.rejected: list[Rejected] = []

    def read(self) -> None:
        seen: set[str] = set()
        with self.shard.open("rb") as tar, self.shard.open("rb") as raw:
            members = read_members(tar, str(self.shard), whole=True)
            for key, group in groupby(members, key=lambda member: member.key):
                found = list(group)
                record = assemble(found, str(self.shard))
                if key in seen:
                    raise DataError(
                        f"{record.where}: the key occurs twice, or its members do not stand together"
                    )
                seen.add(key)
                offset, size = found[0].offset, found[-1].end - found[0].offset
                raw.seek(offset)
                digest = hashlib.sha256(raw.read(size)).digest()
                self.rows.append(_row(record, size, digest))

    def file(self) -> bytes:
        languages = sorted({row["language"] for row in self.rows} - {None})
        licenses = sorted({row["license"] for row in self.rows} - {None})
        keys = [row["key"].encode("utf-8") for row in self.rows]
        clips = [seconds for row in self.rows for seconds in row["clips"]]
        columns: dict[str, NDArray[Any]] = {
            "offsets": np.array([row["offset"] for row in self.rows], dtype=np.int64),
            "sizes": np.array([row["size"] for row in self.rows], dtype=np.int64),
            "seconds": np.array([sum(row["clips"]) for row in self.rows], dtype=np.float32),
            "characters": np.array([row["characters"] for row in self.rows], dtype=np.int32),
            "hashes": np.frombuffer(b"".join(row["sha256"] for row in self.rows), np.uint8).reshape(-1, 32),
            "clip_seconds": np.array(clips, dtype=np.float32),
            "clip_ends": np.cumsum([len(row["clips"]) for row in self.rows], dtype=np.int64),
            "languages": self._codes("language", languages),
            "licenses": self._codes("license", licenses),
            "key_bytes": np.frombuffer(b"".join(keys), np.uint8),
            "key_ends": np.cumsum([len(key) for key in keys], dtype=np.int64),
        }
        header = {
            "shard": self.shard.name,
            "bytes": self.bytes,
            "digest": digest_of(columns, tuple(languages), tuple(licenses)),
            "languages": languages,
            "licenses": licenses,
            "rejected": [[item.key, item.offset, item.reason] for item in self.rejected],
        }
        return write_columns(columns, header)

    def _codes(self, field: str, names: list[str]) -> NDArray[np.int16]:
        if len(names) > np.iinfo(np.int16).max:
            raise DataError(f"{self.shard}: names {len(names)} different {field}s: is the field used so?")
        code = {name: number for number, name in enumerate(names)}
        return np.array([code.get(row[field], -1) for row in self.rows], dtype=np.int16)


def _row(record: Record, size: int, sha256: bytes) -> dict[str, Any]:
    try:
        lengths = [probe(clip, name)[0] for name, clip in record.audio.items()]
    except AudioError as error:
        raise DataError(f"{record.where}: {error}") from error
    return {
        "key": record.key,
        "offset": record.offset,
        "size": size,
        "clips": lengths,
        "characters": sum(len(text) for text in record.texts()),
        "language": _named(record, "language"),
        "license": _named(record, "license"),
        "sha256": sha256,
    }


def _named(record: Record, field: str) -> str | None:
    meta = record.json.get("meta")
    for place_ in (record.json, meta if isinstance(meta, dict) else {}):
        if isinstance(value := place_.get(field), str) and value:
            return value
    return None
