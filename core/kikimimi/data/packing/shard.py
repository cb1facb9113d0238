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
from pathlib import Path
from typing import Any

from kikimimi.contracts.layout import Row
from kikimimi.data.packing.row import Dropped, PackSettings, key_of, pack_row
from kikimimi.data.packing.source import PackSource
from kikimimi.data.shards.index import ShardIndex, index_path
from kikimimi.data.shards.indexing import build_index
from kikimimi.data.shards.record import UNNAMED, named
from kikimimi.data.whole_file import whole_file
from kikimimi.data.workers import SPAWNING, start_pool
from kikimimi.errors import DataError, KikimimiError, RequestError

_VERSION = 3  # of how shards are made: a newer one makes them again


@dataclass
class Tally:
    """How many rows were left out for one reason.

    Attributes:
        rows: How many.
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


@dataclass(frozen=True)
class PackedShard:
    """What one shard holds: the first line of its note. The rows that were left out follow, a line each.

    Attributes:
        name: File name.
        made_from: SHA-256 (hex) of the rows, of size and time of the audio files, and of the settings.
        records: How many.
        seconds: Length of their clips [s].
        silent: How many of them have a silent clip, kept nevertheless.
        dropped: By reason.
        licenses: How many rows of its range, left out or not, name each licence, or `UNNAMED`.
    """

    name: str
    made_from: str
    records: int
    seconds: float
    silent: int
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
    digest = hashlib.sha256(f"{_VERSION} {settings.to_json()} {source.name} {job.begin} {job.end} ".encode())
    digest.update(source.layout.fingerprint(job.begin, job.end).encode())
    made_from = digest.hexdigest()
    if (finished := _finished(job.shard, made_from)) is not None:
        advance(job.end - job.begin)
        return finished, True
    writer = _Writer(job.shard, settings)
    return writer.write(_rows(job, source), job.begin, made_from, advance), False


def _finished(shard: Path, made_from: str) -> PackedShard | None:
    """Return the note of a shard that is whole and was made from the same, or None."""
    try:
        with note_path(shard).open(encoding="utf-8") as file:
            data = json.loads(next(file))
        dropped = {reason: Tally(**tally) for reason, tally in data.pop("dropped").items()}
        packed = PackedShard(**data, dropped=dropped)
        whole = packed.made_from == made_from and len(ShardIndex.load(shard)) == packed.records
    except (OSError, ValueError, TypeError, KeyError, AttributeError, StopIteration, DataError):
        return None  # not there, or of another version
    return packed if whole else None


def _rows(job: ShardJob, source: PackSource) -> Iterator[tuple[int, Row]]:
    number = job.begin
    for number, row in enumerate(source.layout.rows(job.begin, job.end), start=job.begin + 1):
        if number <= job.end:
            yield number - 1, row
    if number != job.end:
        raise DataError(
            f"{source.path}: layout '{source.name}' gave {number - job.begin} rows for {job.begin} to "
            f"{job.end}, which are {job.end - job.begin}"
        )


def _add(tar: tarfile.TarFile, key: str, members: dict[str, bytes]) -> None:
    for suffix, content in members.items():
        info = tarfile.TarInfo(f"{key}.{suffix}")  # fixed time and owner: the same input gives the same bytes
        info.size = len(content)
        info.mode = 0o444
        tar.addfile(info, io.BytesIO(content))


class _Writer:
    def __init__(self, shard: Path, settings: PackSettings) -> None:
        self.shard, self.settings = shard, settings
        self.records, self.seconds, self.silent = 0, 0.0, 0
        self.dropped: list[Dropped] = []
        self.licenses: dict[str, int] = {}

    def write(
        self, rows: Iterator[tuple[int, Row]], begin: int, made_from: str, advance: Callable[[int], None]
    ) -> PackedShard:
        with whole_file(self.shard) as unfinished:
            # With tarfile: webdataset's own writer imports torch, which each process would hold in memory.
            with unfinished.open("wb") as file, tarfile.open(fileobj=file, mode="w|") as tar:
                for number, row in rows:
                    members = self._members(row, number)
                    if members is not None:
                        _add(tar, key_of(number), members)
                    advance(1)
            # Note and index go first: an interruption from here on leaves a shard without them, made again.
            note_path(self.shard).unlink(missing_ok=True)
            index_path(self.shard).unlink(missing_ok=True)
        build_index(self.shard)
        return self._note(made_from)

    def _members(self, row: Row, number: int) -> dict[str, bytes] | None:
        license_name = named(row.record, "license") or UNNAMED
        self.licenses[license_name] = self.licenses.get(license_name, 0) + 1
        made = pack_row(row, number, self.settings)
        if isinstance(made, Dropped):
            self.dropped.append(made)
            return None
        self.records += 1
        self.seconds += made.seconds
        self.silent += made.silent
        return made.members

    def _note(self, made_from: str) -> PackedShard:
        tallies: dict[str, Tally] = {}
        for drop in self.dropped:
            one = Tally(1, drop.seconds or 0.0, int(drop.seconds is None))
            tallies.setdefault(drop.reason, Tally()).add(one)
        seconds = round(self.seconds, 3)
        packed = PackedShard(
            self.shard.name, made_from, self.records, seconds, self.silent, tallies, self.licenses
        )
        note = note_path(self.shard)
        with whole_file(note) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
            file.write(_json_line(asdict(packed)))
            file.writelines(_json_line(asdict(drop)) for drop in self.dropped)
        return packed


def _json_line(data: Any) -> str:
    """Return JSON as one line. What UTF-8 cannot hold, as in names of files, is escaped."""
    line = json.dumps(data, ensure_ascii=False)
    if not line.isascii() and any("\ud800" <= letter <= "\udfff" for letter in line):
        line = json.dumps(data)
    return line + "\n"


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
) -> list[Made]:
    """Make shards, in processes where there is more than one worker.

    Returns:
        For each job what the shard holds, and whether it was there before.

    Raises:
        RequestError: The corpus cannot be opened by a process.
        DataError: The corpus is malformed, or a process died. Shards that are whole are kept.
    """
    workers = min(workers, len(jobs))
    if workers == 1:
        return [pack_shard(job, source, settings, advance) for job in jobs]
    return _Processes(jobs, source, settings, workers).run(advance)


class _Processes:
    def __init__(
        self, jobs: Sequence[ShardJob], source: PackSource, settings: PackSettings, workers: int
    ) -> None:
        self.jobs, self.workers = jobs, workers
        # Memory that is shared without a lock: a process that is killed with a lock in hand would stop all
        # others. Only the process that makes a shard writes its number.
        self.rows = SPAWNING.RawArray("q", [_WAITING] * len(jobs))
        self.stop = SPAWNING.RawValue("b", 0)
        self.made: dict[int, Made] = {}
        corpus = (source.path, source.name, source.config)
        self.pool = start_pool(workers, _open, corpus, settings, self.rows, self.stop)

    def run(self, advance: Callable[[int], None]) -> list[Made]:
        try:
            self._run(advance)
        except BrokenProcessPool as error:
            raise DataError(self._died()) from error
        finally:
            self.stop.value = 1  # after their current rows, where some are left
            self.pool.shutdown(cancel_futures=True)
        return [self.made[number] for number in range(len(self.jobs))]

    def _run(self, advance: Callable[[int], None]) -> None:
        todo = iter(range(len(self.jobs)))
        running: dict[Future[Made], int] = {}
        shown = 0
        while True:
            # A few at a time: waiting looks at every one of them.
            while len(running) < 2 * self.workers and (number := next(todo, None)) is not None:
                running[self.pool.submit(_work, number, self.jobs[number])] = number
            if not running:
                return
            finished, _ = wait(running, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
            for future in finished:
                number = running.pop(future)
                self.made[number] = future.result()
            done = sum(rows for rows in self.rows if rows > 0)
            advance(done - shown)
            shown = done

    def _died(self) -> str:
        at_work = ", ".join(
            f"row {job.begin + rows} ({job.shard.name})"
            for number, (job, rows) in enumerate(zip(self.jobs, self.rows, strict=True))
            if rows != _WAITING and number not in self.made
        )
        return (
            f"a process that packs has died; out of memory? At work then: {at_work or 'none'}. Whole shards "
            "are kept: the same command goes on from here, and with fewer --workers it needs less memory"
        )


class _StoppedError(Exception):
    pass


class _Worker:
    def __init__(self, corpus: tuple[str, str, Any], settings: PackSettings, rows: Any, stop: Any) -> None:
        self.corpus, self.settings, self.rows, self.stop = corpus, settings, rows, stop

    @cached_property
    def source(self) -> PackSource:
        # Opened for the first shard, not when the process starts: an error there would reach nobody.
        return PackSource.build(*self.corpus)

    def make(self, number: int, job: ShardJob) -> Made:
        self.rows[number] = 0

        def advance(count: int) -> None:
            self.rows[number] += count
            if self.stop.value:
                raise _StoppedError

        return pack_shard(job, self.source, self.settings, advance)


_worker: list[_Worker] = []  # the one of this process, or none in the first process


def _open(corpus: tuple[str, str, Any], settings: PackSettings, rows: Any, stop: Any) -> None:
    _worker.append(_Worker(corpus, settings, rows, stop))


def _work(number: int, job: ShardJob) -> Made:
    try:
        return _worker[0].make(number, job)
    except KikimimiError as error:
        # Some errors take more than a message, and could not be sent to the first process.
        raise (RequestError if isinstance(error, RequestError) else DataError)(str(error)) from None
