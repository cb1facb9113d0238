"""One shard: a fixed range of a corpus's rows, whole or not there, with a note of what it was made from.

Processes make whole shards each, so that their number changes nothing in what is made.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from kikimimi.console.terminal import json_text
from kikimimi.contracts.layout import BadRow, Row
from kikimimi.data.packing.row import MALFORMED, Dropped, PackSettings, key_of, pack_row
from kikimimi.data.packing.source import PackSource
from kikimimi.data.shards.index import ShardIndex, index_path
from kikimimi.data.shards.indexing import build_index
from kikimimi.data.shards.record import UNNAMED, named
from kikimimi.data.workers import SPAWNING, working_processes
from kikimimi.errors import DataError, KikimimiError, RequestError
from kikimimi.files.reading import MEBIBYTE, parse_json
from kikimimi.files.writing import whole_file

_VERSION = 3  # of how shards are made: a newer one makes them again


@dataclass
class Tally:
    """How many rows were left out for one reason.

    Attributes:
        rows: Number of rows.
        seconds: Length of their clips, where it is known [s].
        rows_of_unknown_length: How many rows are of no known length.
    """

    rows: int = 0
    seconds: float = 0.0
    rows_of_unknown_length: int = 0

    def add(self, other: Tally) -> None:
        """Add another tally of the same reason."""
        self.rows += other.rows
        self.seconds = round(self.seconds + other.seconds, 3)
        self.rows_of_unknown_length += other.rows_of_unknown_length


@dataclass
class PackedShard:
    """What one shard holds: the first line of its note. The rows that were left out follow, a line each.

    Attributes:
        name: File name.
        made_from: SHA-256 (hex) of the rows, of size and time of the audio files, and of the settings.
        records: Number of records.
        seconds: Length of their clips [s].
        silent: How many of them have a silent clip, kept nevertheless.
        dropped: Rows left out, by reason.
        licenses: How many rows of its range, left out or not, name each licence, or `UNNAMED`.
    """

    name: str
    made_from: str
    records: int = 0
    seconds: float = 0.0
    silent: int = 0
    dropped: dict[str, Tally] = field(default_factory=dict)
    licenses: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardJob:
    """A shard to make: its path and its range of rows."""

    shard: Path
    begin: int
    end: int


def note_path(shard: Path) -> Path:
    """Return where the note of a shard lies."""
    return shard.with_name(f"{shard.name}.pack.jsonl")


def pack_shard(
    job: ShardJob, source: PackSource, settings: PackSettings, advance: Callable[[int], None]
) -> tuple[PackedShard, bool]:
    """Write a shard, its index and its note, unless they are there already and were made from the same.

    Returns:
        What the shard holds, and whether it was there before.

    Raises:
        DataError: The corpus is malformed, or its layout does not keep its contract.
    """
    said = json.dumps(asdict(settings), sort_keys=True)
    digest = hashlib.sha256(f"{_VERSION} {said} {source.name} {job.begin} {job.end} ".encode())
    digest.update(source.layout.fingerprint(job.begin, job.end).encode())
    made_from = digest.hexdigest()
    if (finished := _finished(job.shard, made_from)) is not None:
        advance(job.end - job.begin)
        return finished, True
    packed, note = PackedShard(job.shard.name, made_from), note_path(job.shard)
    dropped: list[Dropped] = []
    with whole_file(job.shard) as unfinished:
        # With tarfile: webdataset's own writer imports torch, which each process would hold in memory.
        with unfinished.open("wb") as file, tarfile.open(fileobj=file, mode="w|") as tar:
            for number, row in _rows(job, source):
                license_name = _license(row)
                packed.licenses[license_name] = packed.licenses.get(license_name, 0) + 1
                made = pack_row(row, number, settings)
                if isinstance(made, Dropped):
                    dropped.append(made)
                else:
                    _add(tar, key_of(number), made.members)
                    packed.records += 1
                    packed.seconds += made.seconds
                    packed.silent += made.silent
                del made  # else indexing would hold the last one
                advance(1)
        # Note and index go first: an interruption from here on leaves a shard without them, made again.
        note.unlink(missing_ok=True)
        index_path(job.shard).unlink(missing_ok=True)
    build_index(job.shard)
    packed.seconds = round(packed.seconds, 3)
    for drop in dropped:
        one = Tally(1, drop.seconds or 0.0, int(drop.seconds is None))
        packed.dropped.setdefault(drop.reason, Tally()).add(one)
    with whole_file(note) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as lines:
        lines.write(json_text(asdict(packed)) + "\n")
        lines.writelines(json_text(asdict(drop)) + "\n" for drop in dropped)
    return packed, False


def _finished(shard: Path, made_from: str) -> PackedShard | None:
    """Return the note of a shard that is whole and was made from the same, or None."""
    try:
        with note_path(shard).open("rb") as file:
            packed = parse_json(file.readline(MEBIBYTE), PackedShard)
        whole = packed.made_from == made_from and len(ShardIndex.load(shard)) == packed.records
    except (OSError, ValueError, DataError):
        return None  # not there, or of another version
    return packed if whole else None


def _rows(job: ShardJob, source: PackSource) -> Iterator[tuple[int, Row | BadRow]]:
    number = job.begin
    for number, row in enumerate(source.layout.rows(job.begin, job.end), start=job.begin + 1):
        if number <= job.end:
            yield number - 1, row
    if number != job.end:
        raise DataError(
            f"{source.path}: layout '{source.name}' gave {number - job.begin} rows for {job.begin} to "
            f"{job.end}, which are {job.end - job.begin}"
        )


def _license(row: Row | BadRow) -> str:
    return UNNAMED if isinstance(row, BadRow) else named(row.record, "license") or UNNAMED


def _add(tar: tarfile.TarFile, key: str, members: dict[str, bytes]) -> None:
    for suffix, content in members.items():
        info = tarfile.TarInfo(f"{key}.{suffix}")  # fixed time and owner: the same input gives the same bytes
        info.size = len(content)
        info.mode = 0o444
        tar.addfile(info, io.BytesIO(content))


def clear_leftovers(out: Path, prefix: str) -> None:
    """Remove what a packing that was killed left half-written.

    Raises:
        RequestError: They cannot be removed.
    """
    names = (f"{prefix}-*.tar*", "ledger.json", "dropped.jsonl")
    # Earlier versions did not hide them.
    for path in (path for name in names for dot in (".", "") for path in out.glob(f"{dot}{name}.*.tmp")):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise RequestError(f"{path}: is left from an interrupted packing: {error.strerror}") from error


_SECONDS_BETWEEN_LOOKS = 0.2  # at how far the processes are
_WAITING = -1  # in place of the rows that are done, for a shard that nobody has begun

Made = tuple[PackedShard, bool]


def pack_shards(
    jobs: Sequence[ShardJob],
    source: PackSource,
    settings: PackSettings,
    *,
    workers: int,
    advance: Callable[[int], None],
    bad_rows: Literal["drop", "fail"] = "drop",
) -> list[Made]:
    """Make shards, in processes where there is more than one worker.

    Returns:
        What each job's shard holds, and whether it was there before.

    Raises:
        RequestError: The corpus cannot be opened by a process.
        DataError: The corpus is malformed, a process died, or a shard has a malformed row and `bad_rows` is
            fail. Shards that are whole are kept.
    """
    workers = min(workers, len(jobs))
    if workers == 1:
        return [_accepted(job, pack_shard(job, source, settings, advance), bad_rows) for job in jobs]
    # Memory that is shared without a lock: a process that is killed with a lock in hand would stop all
    # others. Only the process that makes a shard writes its number.
    rows = SPAWNING.RawArray("q", [_WAITING] * len(jobs))
    todo = enumerate(jobs)
    running: dict[Future[Made], int] = {}
    made: dict[int, Made] = {}
    shown = 0
    opening = (source.path, source.name, source.config), settings, rows
    try:
        with working_processes(workers, _open, *opening) as submit:
            while len(made) < len(jobs):
                # A few at a time: waiting looks at every one of them.
                for number, job in islice(todo, 2 * workers - len(running)):
                    running[submit(_work, number, job)] = number
                for future in wait(running, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done:
                    number = running.pop(future)
                    made[number] = _accepted(jobs[number], future.result(), bad_rows)
                done = sum(count for count in rows if count > 0)
                advance(done - shown)
                shown = done
    except BrokenProcessPool as error:
        at_work = ", ".join(
            f"row {job.begin + count} ({job.shard.name})"
            for number, (job, count) in enumerate(zip(jobs, rows, strict=True))
            if count != _WAITING and number not in made
        )
        raise DataError(
            f"a process that packs has died; out of memory? At work then: {at_work or 'none'}. Whole shards "
            "are kept: the same command goes on from here, and with fewer --workers it needs less memory"
        ) from error
    return [made[number] for number in range(len(jobs))]


def _accepted(job: ShardJob, made: Made, bad_rows: str) -> Made:
    """Return what was made, unless it lacks a malformed row that ends the packing."""
    if bad_rows == "fail" and MALFORMED in made[0].dropped:
        with note_path(job.shard).open(encoding="utf-8") as note:
            next(note)  # the shard itself
            first = next(drop for drop in map(json.loads, note) if drop["reason"] == MALFORMED)
        raise DataError(f"{first['detail']}. With bad_rows=drop such rows are left out, and counted")
    return made


class _Worker:
    def __init__(self, corpus: tuple[str, str, Any], settings: PackSettings, rows: Any) -> None:
        self.corpus, self.settings, self.rows = corpus, settings, rows

    @cached_property
    def source(self) -> PackSource:
        # Opened for the first shard, not when the process starts: an error there would reach nobody.
        return PackSource.build(*self.corpus)


_worker: list[_Worker] = []  # the one of this process, or none in the first process


def _open(corpus: tuple[str, str, Any], settings: PackSettings, rows: Any) -> None:
    _worker.append(_Worker(corpus, settings, rows))


def _work(number: int, job: ShardJob) -> Made:
    (worker,) = _worker
    worker.rows[number] = 0

    def advance(count: int) -> None:
        worker.rows[number] += count

    try:
        return pack_shard(job, worker.source, worker.settings, advance)
    except KikimimiError as error:
        # Some errors take more than a message, and could not be sent to the first process.
        raise (RequestError if isinstance(error, RequestError) else DataError)(str(error)) from None
