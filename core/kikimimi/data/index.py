"""The sidecar index of a shard: where each record lies, how long it is, and its hash.

``train-000000.tar`` has ``train-000000.tar.index.jsonl``: a header line, then one line for each record. With
it, reading is random access, and the order of training is planned without touching the audio.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.audio import probe
from kikimimi.data.record import assemble, place, read_members
from kikimimi.errors import AudioError, DataError, RequestError

FORMAT = "kikimimi-index"
VERSION = 1


@dataclass(frozen=True)
class ShardIndex:
    """The index of one shard, in columns; row i is the i-th record.

    Attributes:
        shard: The tar.
        offsets: (rows,) int64: first header of the record [bytes].
        sizes: (rows,) int64: from there to the end of its last member, padding included [bytes].
        seconds: (rows,) float32: total length of its clips [s].
        clips: (rows,) int32: how many clips it has.
        characters: (rows,) int64: length of all its texts [characters].
        hashes: (rows, 32) uint8: SHA-256 of the bytes from `offsets` on, `sizes` long.
        digest: SHA-256 (hex) of the index's rows: the content of the shard, whatever its name.
        key_bytes: The keys, UTF-8, end to end.
        key_ends: (rows,) int64: where each key ends in `key_bytes`.
    """

    shard: Path
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    seconds: NDArray[np.float32]
    clips: NDArray[np.int32]
    characters: NDArray[np.int64]
    hashes: NDArray[np.uint8]
    digest: str
    key_bytes: bytes
    key_ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def key(self, row: int) -> str:
        """Return the key of a record."""
        begin = int(self.key_ends[row - 1]) if row else 0
        return self.key_bytes[begin : int(self.key_ends[row])].decode("utf-8")

    def where(self, row: int) -> str:
        """Return the place of a record, as messages name it."""
        return place(str(self.shard), int(self.offsets[row]), self.key(row))

    @classmethod
    def load(cls, shard: Path) -> Self:
        """Read the index beside a shard.

        Raises:
            RequestError: The shard or its index does not exist.
            DataError: The index is malformed, or is not of this version of the shard.
        """
        path = index_path(shard)
        if not shard.is_file():
            raise RequestError(f"{shard}: no such shard")
        if not path.is_file():
            raise RequestError(f"{shard}: has no index. Make it with: kikimimi data index {shard}")
        head, _, body = path.read_bytes().partition(b"\n")
        again = f"Make it again with: kikimimi data index {shard}"
        try:
            header = json.loads(head)
            rows = [json.loads(line) for line in body.splitlines()]
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise DataError(f"{path}: not an index of a shard. {again}")
            if header["version"] != VERSION:
                raise DataError(f"{path}: is of version {header['version']}, not {VERSION}. {again}")
            if header["rows"] != len(rows):
                raise DataError(f"{path}: promises {header['rows']} records but lists {len(rows)}. {again}")
            if header["bytes"] != (size := shard.stat().st_size):
                raise DataError(
                    f"{path}: is stale: made when the shard had {header['bytes']} bytes, now it has {size}. "
                    f"{again}"
                )
            return cls._of(shard, rows, hashlib.sha256(body).hexdigest())
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise DataError(f"{path}: is malformed ({type(error).__name__}: {error}). {again}") from error

    @classmethod
    def _of(cls, shard: Path, rows: list[dict[str, Any]], digest: str) -> Self:
        keys = [row["key"].encode("utf-8") for row in rows]
        hashes = b"".join(bytes.fromhex(row["sha256"]) for row in rows)
        return cls(
            shard=shard,
            offsets=np.array([row["offset"] for row in rows], dtype=np.int64),
            sizes=np.array([row["size"] for row in rows], dtype=np.int64),
            seconds=np.array([row["seconds"] for row in rows], dtype=np.float32),
            clips=np.array([row["clips"] for row in rows], dtype=np.int32),
            characters=np.array([row["characters"] for row in rows], dtype=np.int64),
            hashes=np.frombuffer(hashes, dtype=np.uint8).reshape(len(rows), 32),
            digest=digest,
            key_bytes=b"".join(keys),
            key_ends=np.cumsum([len(key) for key in keys], dtype=np.int64),
        )


def index_path(shard: Path) -> Path:
    """Return where the index of a shard lies."""
    return shard.with_name(f"{shard.name}.index.jsonl")


def build_index(shard: Path) -> Path:
    """Read a shard through and write its index beside it, all of it or nothing.

    Raises:
        RequestError: The shard does not exist.
        DataError: The shard is damaged, or a record is malformed (`kikimimi.data.record`).
    """
    if not shard.is_file():
        raise RequestError(f"{shard}: no such shard")
    rows = list(_rows(shard))
    header = {
        "format": FORMAT,
        "version": VERSION,
        "shard": shard.name,
        "bytes": shard.stat().st_size,
        "rows": len(rows),
    }
    path = index_path(shard)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with unfinished.open("w", encoding="utf-8", newline="\n") as file:
        for line in (header, *rows):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    unfinished.replace(path)
    return path


def _rows(shard: Path) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    with shard.open("rb") as tar, shard.open("rb") as raw:
        for key, group in groupby(read_members(tar, str(shard), whole=True), key=lambda member: member.key):
            members = list(group)
            record = assemble(members, str(shard))
            if key in seen:
                raise DataError(f"{record.where}: the key occurs twice, or its members do not stand together")
            seen.add(key)
            offset, size = members[0].offset, members[-1].end - members[0].offset
            raw.seek(offset)
            try:
                lengths = [probe(clip, name)[0] for name, clip in record.audio.items()]
            except AudioError as error:
                raise DataError(f"{record.where}: {error}") from error
            yield {
                "key": key,
                "offset": offset,
                "size": size,
                "seconds": round(sum(lengths), 6),
                "clips": len(lengths),
                "characters": sum(len(text) for text in record.texts()),
                "sha256": hashlib.sha256(raw.read(size)).hexdigest(),
            }
