"""Indexing many shards at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kikimimi.console.progress import Progress
from kikimimi.console.words import counted, duration
from kikimimi.data.shards.index import LeftOut, ShardIndex, build_index
from kikimimi.data.shards.remote import is_url
from kikimimi.data.workers import in_order
from kikimimi.errors import DataError, RequestError

LISTED = 20
"""How many of the records that are left out a summary names; the indexes name all of them."""


@dataclass(frozen=True)
class IndexReport:
    """What was indexed.

    Attributes:
        shards: How many shards.
        records: In all of them.
        seconds: Of audio [s].
        left_out: Records that are not in the indexes.
    """

    shards: int
    records: int
    seconds: float
    left_out: tuple[LeftOut, ...]

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
        return "\n".join(lines)


def index_shards(
    shards: Sequence[str], *, skip: bool = False, workers: int = 1, progress: Progress | None = None
) -> IndexReport:
    """Index shards anew, each as `kikimimi.data.shards.index.build_index` does.

    Args:
        shards: Paths.
        skip: Leave malformed records out instead of failing.
        workers: Processes.
        progress: Counts the shards, where given.

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
    for index, error in in_order(partial(_index, skip=skip), shards, workers):
        if error is not None:
            errors.append(error)
        else:
            assert index is not None
            records += len(index)
            seconds += float(index.seconds.sum(dtype="float64"))
            left_out.extend(index.left_out())
        if progress is not None:
            progress.advance()
    if errors:
        advice = "" if skip else "\nTo leave out what cannot be used: kikimimi data index --skip"
        count = f"{len(errors)} of {len(shards)} shards cannot be indexed:\n" if len(shards) > 1 else ""
        raise DataError(count + "\n".join(errors) + advice)
    return IndexReport(len(shards), records, seconds, tuple(left_out))


def _index(shard: str, *, skip: bool) -> tuple[ShardIndex | None, str | None]:
    try:
        build_index(Path(shard), skip=skip)
        return ShardIndex.load(shard), None
    except DataError as error:
        return None, str(error)
