"""Reading a shard through, to make its index."""

from __future__ import annotations

import hashlib
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.audio import probe
from kikimimi.data.shards.index_file import Rejected, digest_of, write_columns
from kikimimi.data.shards.record import (
    Member,
    Record,
    RecordError,
    assemble,
    grouped,
    named,
    place,
    read_members,
)
from kikimimi.data.shards.store import read_descriptor
from kikimimi.data.shards.tar import BrokenTarError
from kikimimi.errors import AudioError, DataError


def make_index(shard: Path, *, skip: bool) -> bytes:
    """Read a shard through and return the file of its index; see `kikimimi.data.shards.index.build_index`."""
    builder = _Builder(shard, skip=skip)
    builder.read()
    return builder.file()


class _Builder:
    def __init__(self, shard: Path, *, skip: bool) -> None:
        self.shard, self.skip = shard, skip
        self.bytes = shard.stat().st_size
        self.rows: list[dict[str, Any]] = []
        self.rejected: list[Rejected] = []

    def read(self) -> None:
        """Go through the shard."""
        seen: set[str] = set()
        broken: BrokenTarError | None = None
        last: list[Member] = []  # held until it is known that the tar goes on after it
        with self.shard.open("rb") as tar:
            try:
                for members in grouped(read_members(tar, whole=True)):
                    if last:
                        self._add(last, tar.fileno(), seen)
                    last = members
            except BrokenTarError as error:
                broken = error
            if last:
                self._add(last, tar.fileno(), seen, broken)
        if broken is not None and not (self.rejected and self.rejected[-1].offset == broken.offset):
            self._break("", broken)
        if self.rejected and not self.rows:
            raise DataError(self._nothing())

    def _add(
        self, members: list[Member], descriptor: int, seen: set[str], broken: BrokenTarError | None = None
    ) -> None:
        key = members[0].key
        try:
            record = assemble(members, str(self.shard))
            if key in seen:
                raise RecordError(record.where, "the key occurs twice, or its members do not stand together")
            self.rows.append(self._row(record, members, descriptor))
        except RecordError as error:
            if broken is not None:  # what the record lacks is what was cut off
                self._break(key, broken)
                return
            if not self.skip:
                raise
            self.rejected.append(Rejected(key, members[0].offset, error.reason))
        seen.add(key)

    def _break(self, key: str, error: BrokenTarError) -> None:
        if not self.skip:
            raise DataError(f"{place(str(self.shard), error.offset, key or None)}: {error.reason}") from error
        self.rejected.append(Rejected(key, error.offset, error.reason))

    def _nothing(self) -> str:
        first = self.rejected[0]
        more = f" (and {len(self.rejected) - 1:,} more)" if len(self.rejected) > 1 else ""
        where = place(str(self.shard), first.offset, first.key or None)
        return f"{where}: {first.reason}{more}; nothing in the shard can be used, and it gets no index"

    def _row(self, record: Record, members: list[Member], descriptor: int) -> dict[str, Any]:
        try:
            lengths = [probe(clip, name)[0] for name, clip in record.audio.items()]
        except AudioError as error:
            raise RecordError(record.where, str(error)) from error
        offset, size = members[0].offset, members[-1].end - members[0].offset
        sha256 = hashlib.sha256(read_descriptor(descriptor, offset, size)).digest()
        return {
            "key": record.key,
            "offset": offset,
            "size": size,
            "clips": lengths,
            "characters": sum(len(text) for text in record.texts()),
            "language": named(record.json, "language"),
            "license": named(record.json, "license"),
            "sha256": sha256,
        }

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
            "rejected": [list(astuple(item)) for item in self.rejected],
        }
        return write_columns(columns, header)

    def _codes(self, field: str, names: list[str]) -> NDArray[np.int16]:
        if len(names) > np.iinfo(np.int16).max:
            raise DataError(f"{self.shard}: names {len(names)} different {field}s: is the field used so?")
        code = {name: number for number, name in enumerate(names)}
        return np.array([code.get(row[field], -1) for row in self.rows], dtype=np.int16)
