"""Verifying shards: every record against its index, its form, and every clip decoded to its end."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from kikimimi.console.progress import Progress
from kikimimi.console.terminal import visible
from kikimimi.data.audio import decode_whole
from kikimimi.data.shards.index import ShardIndex
from kikimimi.data.shards.record import (
    Record,
    RecordError,
    grouped,
    make_record,
    read_members,
    read_record,
)
from kikimimi.data.shards.store import Store, is_url
from kikimimi.data.shards.tar import BrokenTarError
from kikimimi.data.workers import in_order
from kikimimi.errors import DataError, RequestError

_ROWS = 200  # records of a task: enough to be worth a process, few enough to show progress


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
    one go by the tar itself. What an index leaves out is a problem, too, as is a URL that is not there.

    Raises:
        StorageError: A server does not answer.

    Attributes:
        records: How many records the indexes list.
    """

    def __init__(self, shards: Sequence[str]) -> None:
        self._shards = tuple(shards)
        self._problems: list[Problem] = []
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
        unique = dict.fromkeys(found)  # a URL is gone for every task
        in_place = sorted(unique, key=lambda item: (order[item.shard], item.offset, item.key))
        return CheckReport(len(self._shards), records, tuple(in_place))


def _check(task: _Task) -> tuple[int, list[Problem]]:
    if task.end is None:
        return _check_tar(task.shard)
    index = _index(task.shard, task.digest)
    store = Store()
    problems: list[Problem] = []
    for row in range(task.begin, task.end):
        offset, size = int(index.offsets[row]), int(index.sizes[row])
        try:
            span = store.read(task.shard, offset, size, index.shard_bytes)
            if hashlib.sha256(span).digest() != index.hashes[row].tobytes():
                raise RecordError("", "the bytes are not those that were indexed (SHA-256 differs)")
            _check_clips(read_record(span, task.shard, offset))
        except RequestError as error:
            problems.append(Problem(task.shard, 0, "", str(error)))
            return row - task.begin, problems
        except DataError as error:
            problems.append(Problem(task.shard, offset, index.key(row), _reason(error)))
    return task.end - task.begin, problems


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
        except BrokenTarError as error:
            problems.append(Problem(shard, error.offset, "", error.reason))
    return count, problems


def _check_clips(record: Record) -> None:
    for name, clip in record.audio.items():
        decode_whole(clip, name=name)


def _reason(error: DataError) -> str:
    return error.reason if isinstance(error, RecordError) else str(error)
