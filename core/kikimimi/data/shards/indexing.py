"""Indexing: shards are read through, and each gets its index."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tarfile import RECORDSIZE
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kikimimi.console.progress import Progress
from kikimimi.console.words import counted, duration, size as in_words
from kikimimi.data.audio import probe
from kikimimi.data.shards.index import (
    MAX_INDEX,
    LeftOut,
    Rejected,
    ShardIndex,
    index_path,
    old_path,
    write_columns,
)
from kikimimi.data.shards.record import (
    Member,
    Record,
    RecordError,
    grouped,
    make_record,
    named,
    place,
    read_members,
)
from kikimimi.data.shards.store import descriptor_blocks, is_url
from kikimimi.data.shards.tar import BLOCK, BrokenTarError, read_entries
from kikimimi.data.workers import in_order
from kikimimi.errors import AudioError, DataError, RequestError
from kikimimi.files.writing import check_target, whole_file

MOST_ZEROS = 2 * BLOCK + RECORDSIZE
"""What a tar ends in at most: its end mark, and zeros to a multiple of 20 blocks [bytes]."""
LISTED = 20
"""How many of the records that are left out a summary names; the indexes name all of them."""


@dataclass(frozen=True)
class IndexReport:
    """What was indexed.

    Attributes:
        shards: How many shards.
        records: How many records are in all of them.
        seconds: Length of the audio [s].
        left_out: Records that are not in the indexes.
        odd_ends: Shards that end in more zeros than tar pads, each with how many [bytes].
    """

    shards: int
    records: int
    seconds: float
    left_out: tuple[LeftOut, ...]
    odd_ends: tuple[tuple[str, int], ...] = ()

    def summary(self) -> str:
        """Return what was done, for people."""
        lines = [
            f"{counted(self.records, 'record')}, {duration(self.seconds)} of audio in "
            f"{counted(self.shards, 'shard')}"
        ]
        if self.left_out:
            lines.append(f"left out: {len(self.left_out)}")
            lines.extend(f"  {item.where}: {item.reason}" for item in self.left_out[:LISTED])
            if len(self.left_out) > LISTED:
                lines.append(f"  and {len(self.left_out) - LISTED} more; 'kikimimi data check' lists all")
        lines += [
            f"warning: {shard} ends in {zeros:,} bytes of zeros, more than tar pads: were records lost there?"
            for shard, zeros in self.odd_ends[:LISTED]
        ]
        return "\n".join(lines)


def index_shards(
    shards: Sequence[str], *, skip: bool = False, workers: int = 1, progress: Progress | None = None
) -> IndexReport:
    """Index shards anew, each as `build_index` does.

    Raises:
        RequestError: A shard is a URL.
        DataError: Shards cannot be indexed; the others are. The message names all of them.
    """
    if urls := [shard for shard in shards if is_url(shard)]:
        raise RequestError(
            f"{urls[0]}: an index is written beside its shard, which a URL does not allow. Index the shard "
            "where it is a local file, before uploading it, and upload both"
        )
    records, seconds = 0, 0.0
    left_out: list[LeftOut] = []
    errors: list[str] = []
    odd_ends: list[tuple[str, int]] = []
    for shard, index in zip(shards, in_order(partial(_index, skip=skip), shards, workers), strict=True):
        if isinstance(index, str):
            errors.append(index)
        else:
            records += len(index)
            seconds += float(index.seconds.sum(dtype="float64"))
            left_out.extend(index.left_out())
            if (zeros := _zeros(shard, index)) > MOST_ZEROS:
                odd_ends.append((shard, zeros))
        if progress is not None:
            progress.advance()
    if errors:
        advice = "" if skip else "\nTo leave out what cannot be used: kikimimi data index --skip"
        count = f"{len(errors)} of {len(shards)} shards cannot be indexed:\n" if len(shards) > 1 else ""
        raise DataError(count + "\n".join(errors) + advice)
    return IndexReport(len(shards), records, seconds, tuple(left_out), tuple(odd_ends))


def _zeros(shard: str, index: ShardIndex) -> int:
    """Return how many bytes there are after the last member of a shard that was read to its end."""
    end = int((index.offsets + index.sizes).max(initial=0))
    if any(item.offset >= end for item in index.rejected):
        return 0
    if index.shard_bytes - end > MOST_ZEROS:  # members that are passed over may follow
        with Path(shard).open("rb") as tar:
            end = max(entry.end for entry in read_entries(tar, largest=lambda _: 0))
    return index.shard_bytes - end


def _index(shard: str, *, skip: bool) -> ShardIndex | str:
    try:
        build_index(Path(shard), skip=skip)
        return ShardIndex.load(shard)
    except DataError as error:
        return str(error)


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
    path = index_path(shard)
    check_target(path)
    builder = _Builder(shard, skip=skip)
    builder.read()
    content = builder.file()
    if len(content) > MAX_INDEX:
        raise DataError(
            f"{shard}: its index has {in_words(len(content))}; at most {in_words(MAX_INDEX)} are read. Split "
            "the shard"
        )
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content)
    old_path(shard).unlink(missing_ok=True)
    return path


_APART = "the key occurs twice, or its members do not stand together (tar --sort=name puts them so)"


class _Outcome(NamedTuple):
    """What came of a record: its row of the index, or what is wrong with it."""

    key: str
    offset: int
    row: dict[str, Any] | None = None
    error: RecordError | None = None


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
        last: _Outcome | None = None  # kept until it is known that the tar goes on after it
        with self.shard.open("rb") as tar:
            try:
                for members in grouped(read_members(tar, whole=True)):
                    if last is not None:
                        self._add(last)
                    last = self._outcome(members, tar.fileno(), seen)
                    del members  # else two records would be held
            except BrokenTarError as error:
                broken = error
            if last is not None:
                self._add(last, broken)
        if broken is not None and not (self.rejected and self.rejected[-1].offset == broken.offset):
            self._break("", broken)
        if self.rejected and not self.rows:
            first = self.rejected[0]
            more = f" (and {len(self.rejected) - 1:,} more)" if len(self.rejected) > 1 else ""
            where = place(str(self.shard), first.offset, first.key or None)
            raise DataError(
                f"{where}: {first.reason}{more}; nothing in the shard can be used, and it gets no index"
            )

    def _outcome(self, members: list[Member], descriptor: int, seen: set[str]) -> _Outcome:
        key, offset = members[0].key, members[0].offset
        try:
            record = make_record(members, str(self.shard))
            if key in seen:
                raise RecordError(record.where, _APART)
            return _Outcome(key, offset, row=self._row(record, members, descriptor))
        except RecordError as error:
            # Its frames hold the record.
            return _Outcome(key, offset, error=error.with_traceback(None))
        finally:
            seen.add(key)

    def _add(self, outcome: _Outcome, broken: BrokenTarError | None = None) -> None:
        key, error = outcome.key, outcome.error
        if outcome.row is not None:
            self.rows.append(outcome.row)
        elif broken is not None:  # what the record lacks is what was cut off
            self._break(key, broken)
        elif error is not None:
            why = f": {_APART}" if key in self._apart and error.reason != _APART else ""
            if not self.skip:
                raise (RecordError(f"{error}{why}") if why else error) from error.__cause__
            self.rejected.append(Rejected(key, outcome.offset, error.reason + why))

    @cached_property
    def _apart(self) -> set[str]:
        """The keys whose members stand in more than one place; looked for only where a record is wrong."""
        seen: set[str] = set()
        apart: set[str] = set()
        with self.shard.open("rb") as tar:
            try:
                for members in grouped(read_members(tar)):
                    (apart if members[0].key in seen else seen).add(members[0].key)
            except BrokenTarError:
                pass
        return apart

    def _break(self, key: str, error: BrokenTarError) -> None:
        if not self.skip:
            raise DataError(f"{place(str(self.shard), error.offset, key or None)}: {error.reason}") from error
        self.rejected.append(Rejected(key, error.offset, error.reason))

    def _row(self, record: Record, members: list[Member], descriptor: int) -> dict[str, Any]:
        try:
            lengths = [probe(clip, name)[0] for name, clip in record.audio.items()]
        except AudioError as error:
            raise RecordError(record.where, str(error)) from error
        offset, size = members[0].offset, members[-1].end - members[0].offset
        digest = hashlib.sha256()
        for block in descriptor_blocks(descriptor, offset, size):
            digest.update(block)
        return {
            "key": record.key,
            "offset": offset,
            "size": size,
            "clips": lengths,
            "characters": sum(len(text) for text in record.texts()),
            "language": named(record.json, "language"),
            "license": named(record.json, "license"),
            "sha256": digest.digest(),
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
            "languages": languages,
            "licenses": licenses,
            "rejected": self.rejected,
        }
        return write_columns(columns, header)

    def _codes(self, field: str, names: list[str]) -> NDArray[np.int16]:
        if len(names) > np.iinfo(np.int16).max:
            raise DataError(f"{self.shard}: names {len(names)} different {field}s: is the field used so?")
        code = {name: number for number, name in enumerate(names)}
        return np.array([code.get(row[field], -1) for row in self.rows], dtype=np.int16)
