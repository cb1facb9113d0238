"""Verifying shards: every record against its index, its form, and every clip decoded to its end."""

import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from kikimimi.console.progress import Progress
from kikimimi.console.terminal import visible
from kikimimi.data.audio import check_sound
from kikimimi.data.shards.index import ShardIndex
from kikimimi.data.shards.record import (
    Record,
    RecordError,
    grouped,
    is_added,
    make_record,
    named,
    read_members,
    read_record,
)
from kikimimi.data.shards.store import Store, is_url
from kikimimi.data.shards.tar import BrokenTarError, read_entries
from kikimimi.data.workers import in_order
from kikimimi.errors import DataError, RequestError

_ROWS = 200  # records of a task: enough to be worth a process, few enough to show progress
_CHANGED = "the bytes are not those that were indexed (SHA-256 differs)"
_LARGEST_GAP = 1 << 26  # bytes between records: of what is longer, the beginning is looked at
_TOLERANCE = 0.001  # s: an index holds lengths in single precision


@dataclass(frozen=True)
class Problem:
    """Something wrong with a shard.

    Attributes:
        shard: Path or URL.
        offset: Where in the shard [bytes].
        key: The record's key; empty where it is not about one.
        reason: What is wrong.
    """

    shard: str
    offset: int
    key: str
    reason: str


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        shards: How many shards were checked.
        records: How many records.
        problems: Problems in the order of the shards and of the offsets in them.
    """

    shards: int
    records: int
    problems: tuple[Problem, ...]

    def table(self) -> str:
        """Return the problems as a table, for people."""
        rows = [("shard", "byte", "record", "problem")]
        rows += [
            (visible(item.shard), str(item.offset), visible(item.key), visible(item.reason))
            for item in self.problems
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            f"{shard:<{widths[0]}}  {byte:>{widths[1]}}  {key:<{widths[2]}}  {reason}"
            for shard, byte, key, reason in rows
        )


class _Task(NamedTuple):
    shard: str
    digest: str  # of the index; a process keeps the one that it reads
    begin: int
    end: int | None  # None: there is no index to go by


class ShardCheck:
    """A check of every record of shards: its hash, its form, and that each clip decodes to its end.

    Records go by the index. Where a shard has none that fits, that is a problem, and the records of a local
    one go by the tar itself. What an index leaves out is a problem, too, as is a URL that is not there, and
    what it says of a record that is not so: key, lengths, characters, language, licence.

    Raises:
        StorageError: A server does not answer.

    Attributes:
        records: How many records the indexes list.
    """

    def __init__(self, shards: Sequence[str]) -> None:
        self._shards = tuple(shards)
        self._problems: list[Problem] = []
        self._made_for: dict[str, tuple[str, int]] = {}
        self._tasks: list[_Task] = []
        self.records = 0
        for shard in shards:
            try:
                index = ShardIndex.load(shard)
            except (RequestError, DataError) as error:
                self._problems.append(Problem(shard, 0, "", str(error)))
                if not is_url(shard):
                    self._tasks.append(_Task(shard, "", 0, None))
                continue
            self.records += len(index)
            self._made_for[shard] = index.made_for, len(index)
            self._problems.extend(
                Problem(shard, item.offset, item.key, f"left out of the index: {item.reason}")
                for item in index.rejected
            )
            for begin in range(0, len(index), _ROWS):
                self._tasks.append(_Task(shard, index.digest, begin, min(begin + _ROWS, len(index))))

    def run(self, *, workers: int = 1, progress: Progress | None = None) -> CheckReport:
        """Check.

        Raises:
            DataError: A process died.
            StorageError: A server does not answer, or a file cannot be opened.
        """
        records, found = 0, list(self._problems)
        for task, (count, problems) in zip(self._tasks, in_order(_check, self._tasks, workers), strict=True):
            records += count
            found.extend(problems)
            if progress is not None and task.end is not None:
                progress.advance(task.end - task.begin)
        order = {shard: number for number, shard in enumerate(self._shards)}
        unique = dict.fromkeys(self._of_other_shards(found))  # a URL is gone for every task
        in_place = sorted(unique, key=lambda item: (order[item.shard], item.offset, item.key))
        return CheckReport(len(self._shards), records, tuple(in_place))

    def _of_other_shards(self, found: list[Problem]) -> list[Problem]:
        """Replace the problems of a shard none of whose records is in place by the one that it is."""
        changed = Counter(problem.shard for problem in found if problem.reason == _CHANGED)
        for shard, (made_for, rows) in self._made_for.items():
            if changed[shard] == rows and rows > 1:
                found = [item for item in found if item.shard != shard or item.reason != _CHANGED]
                was = "another shard" if made_for == shard.rpartition("/")[2] else made_for
                reason = f"its index is that of {was}: no record is where it says. {_make_again(shard)}"
                found.append(Problem(shard, 0, "", reason))
        return found


def _check(task: _Task) -> tuple[int, list[Problem]]:
    if task.end is None:
        return _check_tar(task.shard)
    index = _index(task.shard, task.digest)
    store = Store()
    problems: list[Problem] = []
    for row in range(task.begin, task.end):
        try:
            _check_row(task.shard, index, row, store)
        except RequestError as error:
            problems.append(Problem(task.shard, 0, "", str(error)))
            return row - task.begin, problems
        except DataError as error:
            offset = int(index.offsets[row])
            problems.append(Problem(task.shard, offset, index.key(row), _reason(error)))
    return task.end - task.begin, problems + _unlisted(task, index, store)


def _check_row(shard: str, index: ShardIndex, row: int, store: Store) -> None:
    offset, size = int(index.offsets[row]), int(index.sizes[row])
    span = store.read(shard, offset, size, index.shard_bytes)
    if hashlib.sha256(span).digest() != index.hashes[row].tobytes():
        raise RecordError("", _CHANGED)
    record = read_record(span, shard, offset)
    del span  # the record has it once more
    lengths = _check_clips(record)
    if wrong := next(_differences(index, row, record, lengths), ""):
        raise RecordError("", f"{wrong}. {_make_again(shard)}")


def _unlisted(task: _Task, index: ShardIndex, store: Store) -> list[Problem]:
    """Return the records between those that an index lists, and after its last one."""
    problems: list[Problem] = []
    ends = index.offsets + index.sizes
    known = {item.offset for item in index.rejected}
    for row in range(task.begin, task.end or 0):
        begin = int(ends[row])
        last = row + 1 == len(index)
        end = index.shard_bytes if last else int(index.offsets[row + 1])
        if row == 0 and index.offsets[0]:
            problems += _records_in(task.shard, store, 0, int(index.offsets[0]), index, known)
        problems += _records_in(task.shard, store, begin, end, index, known)
    return problems


def _records_in(
    shard: str, store: Store, begin: int, end: int, index: ShardIndex, known: set[int]
) -> list[Problem]:
    if begin == end or any(begin <= offset < end for offset in known):
        return []
    try:
        piece = store.read(shard, begin, min(end - begin, _LARGEST_GAP), index.shard_bytes)
        entries = read_entries(io.BytesIO(piece), start=begin)
        found = next((entry for entry in entries if not is_added(entry.name)), None)
    except BrokenTarError as error:
        return [Problem(shard, error.offset, "", f"between the records of the index: {error.reason}")]
    if found is None:
        return []
    reason = f"member {visible(found.name)!r} is not in the index. {_make_again(shard)}"
    return [Problem(shard, found.offset, "", reason)]


def _differences(index: ShardIndex, row: int, record: Record, lengths: list[float]) -> Iterator[str]:
    """Yield what an index says of a record, and what is so."""
    clips = int(index.clips[row])
    said = index.clip_seconds[int(index.clip_ends[row]) - clips : int(index.clip_ends[row])].tolist()
    pairs: list[tuple[str, object, object]] = [
        ("the key", index.key(row), record.key),
        ("the number of clips", clips, len(lengths)),
        ("the number of characters", int(index.characters[row]), sum(map(len, record.texts()))),
    ]
    for field, codes, names in (
        ("language", index.languages, index.language_names),
        ("license", index.licenses, index.license_names),
    ):
        code = int(codes[row])
        pairs.append((f"the {field}", names[code] if code >= 0 else None, named(record.json, field)))
    for what, there, here in pairs:
        if there != here:
            yield f"its index has {there!r} as {what}, and it is {here!r}"
    for name, there, here in zip(record.audio, said, lengths, strict=True):
        if not math.isclose(there, here, rel_tol=1e-6, abs_tol=_TOLERANCE):
            yield f"its index has {there:.3f} s as the length of {name}, and it is {here:.3f} s"
    total = float(index.seconds[row])
    if not math.isclose(total, sum(lengths), rel_tol=1e-5, abs_tol=_TOLERANCE):
        yield f"its index has {total:.3f} s as the length of all clips, and it is {sum(lengths):.3f} s"


def _make_again(shard: str) -> str:
    if is_url(shard):
        return "Make it with 'kikimimi data index' where the shard is a local file, and upload both"
    return f"Make it again with: kikimimi data index {shard}"


@lru_cache(maxsize=1)  # tasks come in the order of the shards
def _index(shard: str, digest: str) -> ShardIndex:
    return ShardIndex.load(shard)


def _check_tar(shard: str) -> tuple[int, list[Problem]]:
    problems: list[Problem] = []
    count = 0
    with Path(shard).open("rb") as tar:
        try:
            for members in grouped(read_members(tar, whole=True)):
                count += 1
                try:
                    _check_clips(make_record(members, shard))
                except DataError as error:
                    problems.append(Problem(shard, members[0].offset, members[0].key, _reason(error)))
                del members  # else two records would be held
        except BrokenTarError as error:
            problems.append(Problem(shard, error.offset, "", error.reason))
    return count, problems


def _check_clips(record: Record) -> list[float]:
    """Decode the clips of a record; return their lengths [s]."""
    return [check_sound(clip, name) for name, clip in record.audio.items()]


def _reason(error: DataError) -> str:
    return error.reason if isinstance(error, RecordError) else str(error)
