"""Shards that were made elsewhere, as WebDataset tars: nothing is packed, they only get their indexes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from kikimimi.data.index import ShardIndex, build_index, index_path
from kikimimi.data.ledger import amount
from kikimimi.data.pack_source import matching
from kikimimi.data.pack_workers import start_process
from kikimimi.data.shards import expand
from kikimimi.errors import DataError, RequestError
from kikimimi.progress import Progress


@dataclass(frozen=True)
class TarsReport:
    """What was indexed.

    Attributes:
        pattern: Names all the shards, as a recipe does.
        shards: How many.
        records: Of all of them.
        seconds: Length of their clips [s].
        kept: How many of the shards had their index before.
    """

    pattern: str
    shards: int
    records: int
    seconds: float
    kept: int

    def summary(self) -> str:
        """Return one line: what was indexed."""
        return (
            f"{self.records:,} records, {amount(self.seconds)} of audio, {self.shards:,} "
            f"{'shard' if self.shards == 1 else 'shards'} ({self.kept:,} were indexed before), which stay "
            f"where they are: {self.pattern}"
        )


def find_tars(source: str) -> list[Path]:
    """Return the shards that a source names, or none where it is a corpus that a layout reads.

    Args:
        source: A ``.tar``, a pattern of them with wildcards or braces, or a folder that holds them.

    Raises:
        RequestError: A pattern matches nothing, names what is missing, or is a URL.
    """
    path = Path(source).expanduser()
    if path.exists() and matching(path)[0]:
        return []
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    if not source.endswith(".tar"):
        return []
    if "://" in source:
        raise RequestError(f"{source}: indexes are written beside the shards: download them first")
    return [Path(tar) for tar in expand(source)]


def index_tars(
    tars: Sequence[Path], pattern: str, *, workers: int = 1, progress: Progress | None = None
) -> TarsReport:
    """Index shards. One whose index is newer than it and whole is not read again.

    Args:
        tars: The shards.
        pattern: What names them, for the report.
        workers: Processes that read; 1 means this one.
        progress: Counts the shards, where given.

    Raises:
        RequestError: The number of workers is wrong.
        DataError: A shard is damaged, a record is malformed, or a process died.
    """
    if workers < 1:
        raise RequestError(f"workers must be at least 1, not {workers}")
    records, seconds, kept = 0, 0.0, 0
    for its_records, its_seconds, its_kept in _indexed(tars, min(workers, len(tars))):
        records, seconds, kept = records + its_records, seconds + its_seconds, kept + its_kept
        if progress is not None:
            progress.advance()
    return TarsReport(pattern, len(tars), records, seconds, kept)


def _indexed(tars: Sequence[Path], workers: int) -> Iterator[tuple[int, float, bool]]:
    if workers <= 1:
        yield from map(_index, tars)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, start_process) as pool:
        try:
            yield from pool.map(_index, tars)
        except BrokenProcessPool as error:
            raise DataError(
                "a process that reads shards has died; out of memory? The same command goes on from here"
            ) from error


def _index(tar: Path) -> tuple[int, float, bool]:
    index = _whole(tar)
    kept = index is not None
    if index is None:
        build_index(tar)
        index = ShardIndex.load(tar)
    return len(index), float(index.seconds.sum(dtype="float64")), kept


def _whole(tar: Path) -> ShardIndex | None:
    try:
        if index_path(tar).stat().st_mtime_ns < tar.stat().st_mtime_ns:
            return None
        return ShardIndex.load(tar)
    except (OSError, RequestError, DataError):  # none, or of another version
        return None
