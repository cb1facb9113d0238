"""Packing: a corpus of audio files becomes shards of resampled FLAC or Opus with their indexes.

The same corpus and settings always give the same bytes, with any number of processes and after any
interruption. Each shard holds a fixed range of the corpus's rows, is written under another name until it is
whole, and then gets a note of what it was made from: an interrupted run goes on where it stopped.

``ledger.json`` holds the counts of what became a record and of what was left out, with the reason;
``dropped.jsonl`` every row that was left out, a line each. The lines are copied from the notes of the shards
without being held: they take no memory, however many they are.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from typing_extensions import TypedDict

from kikimimi.console.progress import Progress
from kikimimi.console.terminal import json_text
from kikimimi.console.words import amount, counted, nearest
from kikimimi.contracts.options import PositiveFloat, PositiveInt, Rule, checked
from kikimimi.data.codec import Codec
from kikimimi.data.packing.row import PackSettings
from kikimimi.data.packing.shard import PackedShard, ShardJob, Tally, clear_leftovers, note_path, pack_shards
from kikimimi.data.packing.source import PackSource
from kikimimi.data.shards.index import index_path
from kikimimi.errors import DataError, RequestError, WriteError
from kikimimi.files.reading import MEBIBYTE, file_there, read_json
from kikimimi.files.writing import whole_file, writing

LEDGER, DROPPED = "ledger.json", "dropped.jsonl"
"""Names of the files."""


class DroppedCount(TypedDict):
    """What a ledger says of the rows that were left out for one reason: how many."""

    rows: int


class Ledger(TypedDict):
    """What is read of a ledger again: the prefix of its shards, and what was left out, by reason."""

    prefix: NotRequired[str]
    dropped: dict[str, DroppedCount]


def read_ledger(path: Path) -> Ledger | None:
    """Read a ledger; None where there is none.

    Raises:
        DamagedError: It is damaged.
    """
    remedy = "Delete it: 'kikimimi data pack' makes it again"
    if not file_there(path, remedy):
        return None
    return read_json(path, Ledger, limit=64 * MEBIBYTE, remedy=remedy)


@dataclass(frozen=True)
class PackReport:
    """What was packed.

    Attributes:
        out: Folder of the shards.
        pattern: Names all the shards, as a recipe does.
        rows: Rows of the corpus.
        shards: The shards in order.
        kept_shards: How many of them were there before.
        wanted_licenses: The licences to keep; empty keeps all.
    """

    out: Path
    pattern: str
    rows: int
    shards: Sequence[PackedShard]
    kept_shards: int
    wanted_licenses: tuple[str, ...] = ()

    @property
    def records(self) -> int:
        """How many rows became records."""
        return sum(shard.records for shard in self.shards)

    @property
    def seconds(self) -> float:
        """Length of the packed audio [s]."""
        return sum(shard.seconds for shard in self.shards)

    @property
    def silent(self) -> int:
        """How many records have a silent clip."""
        return sum(shard.silent for shard in self.shards)

    def dropped(self) -> dict[str, dict[str, float]]:
        """Return, for each reason, ``rows``, ``seconds``, ``hours`` and ``rows_of_unknown_length``."""
        return {
            reason: {
                "rows": tally.rows,
                "seconds": tally.seconds,
                "hours": _in_hours(tally.seconds),
                "rows_of_unknown_length": tally.rows_of_unknown_length,
            }
            for reason, tally in self._tallies().items()
        }

    def _tallies(self) -> dict[str, Tally]:
        tallies: dict[str, Tally] = {}
        for shard in self.shards:
            for reason, tally in shard.dropped.items():
                tallies.setdefault(reason, Tally()).add(tally)
        return dict(sorted(tallies.items(), key=lambda item: (-item[1].rows, item[0])))

    def licenses(self) -> dict[str, int]:
        """Return how many rows name each licence, the most frequent first."""
        found = sum((Counter(shard.licenses) for shard in self.shards), Counter[str]())
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def missing_licenses(self) -> list[str]:
        """Return the wanted licences that no row names."""
        found = self.licenses()
        return [name for name in self.wanted_licenses if name not in found]

    def summary(self) -> str:
        """Return what was packed and what was left out, for people: a line, and one for each reason."""
        lines = [
            f"{self.records:,} of {counted(self.rows, 'row')}, {amount(self.seconds)} of audio, "
            f"{counted(len(self.shards), 'shard')} ({self.kept_shards:,} "
            f"{'was' if self.kept_shards == 1 else 'were'} there before): {self.pattern}"
        ]
        tallies = self._tallies()
        for reason, tally in tallies.items():
            unknown = tally.rows_of_unknown_length
            said = f"{unknown:,} of unknown length" if unknown else ""
            known = amount(tally.seconds) if unknown < tally.rows else ""
            lines.append(f"  dropped: {tally.rows:,} {reason} ({', '.join(filter(None, [known, said]))})")
        if tallies:
            lines.append(f"  each of them, with the reason: {self.out / DROPPED}")
        if self.silent:
            lines.append(f"  silent but kept: {self.silent:,}")
        found = self.licenses()
        for name in self.missing_licenses():
            lines.append(f"  no row has the licence {name}.{nearest(name, found)}")
        return "\n".join(lines)

    def write(self, about: dict[str, Any]) -> None:
        """Write ``ledger.json`` and ``dropped.jsonl``, each of them whole or not at all."""
        dropped = self.out / DROPPED
        with whole_file(dropped) as unfinished, unfinished.open("wb") as file:
            for shard in self.shards:
                with note_path(self.out / shard.name).open("rb") as note:
                    next(note)  # the shard itself
                    shutil.copyfileobj(note, file)
        ledger = {
            **about,
            "rows": self.rows,
            "records": self.records,
            "seconds": round(self.seconds, 3),
            "hours": _in_hours(self.seconds),
            "silent": self.silent,
            "dropped": self.dropped(),
            "dropped_rows": DROPPED,
            "licenses": self.licenses(),
            "shards": [
                {"name": shard.name, "records": shard.records, "seconds": shard.seconds}
                for shard in (self.shards if self.records else ())
            ],
        }
        with whole_file(self.out / LEDGER) as unfinished:
            text = json_text(ledger, indent=1, default=str)
            unfinished.write_text(f"{text}\n", encoding="utf-8")


def _in_hours(seconds: float) -> float:
    return round(seconds / 3600, 4)


_PLAIN = re.compile(r"(?!\.)[^/\\{}*?[\] ]+")
_Prefix = Annotated[
    str, Rule("a plain file name without wildcards, braces or spaces, and not hidden", _PLAIN.fullmatch)
]
_MAX_SHARDS = 1_000_000  # what six digits number
_SHOWN = 20  # licences, at most, in a message


@checked
def pack(
    source: PackSource | Path | str,
    out: Path,
    *,
    layout: str | None = None,
    options: Sequence[str] = (),
    sample_rate: int = 16_000,
    records_per_shard: PositiveInt = 1000,
    prefix: _Prefix = "shard",
    codec: Codec = "flac",
    min_seconds: PositiveFloat | None = None,
    max_seconds: PositiveFloat | None = None,
    licenses: Sequence[str] = (),
    bad_rows: Literal["drop", "fail"] = "drop",
    workers: PositiveInt = 1,
    progress: Progress | None = None,
) -> PackReport:
    """Pack the rows of a corpus into shards.

    Args:
        source: The corpus, opened (`PackSource`), or where it is.
        out: Folder of the shards ``PREFIX-000000.tar`` and so on, of ``ledger.json`` and ``dropped.jsonl``.
        layout: Registered name of the corpus's layout; None finds the one that matches.
        options: The layout's options, ``KEY=VALUE`` each.
        sample_rate: Sampling rate of the packed audio [Hz].
        records_per_shard: Rows of the corpus for each shard.
        prefix: What the shards' names begin with.
        codec: FLAC of 16 bits, or Opus.
        min_seconds: Rows with a shorter clip are left out [s].
        max_seconds: Rows with a longer clip are left out [s].
        licenses: Rows with another licence, or with none, are left out; empty keeps all.
        bad_rows: What a malformed row does: drop leaves it out, and counts it; fail ends the packing.
        workers: Processes that pack; 1 means this one.
        progress: Counts the rows, where given.

    Raises:
        RequestError: The corpus, an option, the prefix or a number is wrong, `out` has other shards or is
            being packed into, or no row has a licence that is to be kept.
        DamagedError: A ledger that `out` holds is damaged: whose shards it is of, cannot be told.
        DataError: The corpus is malformed, a process died, a row is malformed where `bad_rows` is fail, or
            none of the rows can be used: then the account is all that is left in `out`.
    """
    settings = PackSettings(
        sample_rate=sample_rate,
        codec=codec,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        licenses=tuple(licenses),
    )
    if not isinstance(source, PackSource):
        source = PackSource.open(source, layout, options)
    elif layout is not None or options:
        raise RequestError("a corpus that is opened has its layout and options: leave out layout and options")
    rows = len(source)
    if (count := -(-rows // records_per_shard)) > _MAX_SHARDS:
        raise RequestError(
            f"{source.path}: {rows:,} rows make {counted(count, 'shard')} of {records_per_shard:,}, "
            f"but at most {_MAX_SHARDS:,} are made: raise records_per_shard"
        )
    jobs = [
        ShardJob(
            out / f"{prefix}-{number:06d}.tar",
            number * records_per_shard,
            min((number + 1) * records_per_shard, rows),
        )
        for number in range(count)
    ]
    with _alone(out):
        _check_out(out, prefix, jobs)
        clear_leftovers(out, prefix)
        try:
            advance = progress.advance if progress else lambda rows: None
            made = pack_shards(jobs, source, settings, workers=workers, advance=advance, bad_rows=bad_rows)
        finally:
            clear_leftovers(out, prefix)
        report = PackReport(
            out,
            str(out / (jobs[0].shard.name if count == 1 else f"{prefix}-{{000000..{count - 1:06d}}}.tar")),
            rows,
            [shard for shard, _ in made],
            sum(kept for _, kept in made),
            settings.licenses,
        )
        report.write(
            {
                "source": Path(source.path).name,
                "layout": source.name,
                "options": asdict(source.config),
                "settings": asdict(settings),
                "prefix": prefix,
                "records_per_shard": records_per_shard,
                "made_from": hashlib.sha256("".join(s.made_from for s in report.shards).encode()).hexdigest(),
            }
        )
        if not report.records:  # nothing but the account stays
            for job in jobs:
                for path in (note_path(job.shard), index_path(job.shard), job.shard):
                    path.unlink(missing_ok=True)
    _check_report(report, source)
    return report


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Make the folder, and keep a second packing out of it."""
    try:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
    except WriteError as error:
        if isinstance(error.__cause__, FileExistsError | NotADirectoryError):
            raise RequestError(
                f"{out}: cannot be made a folder for shards: {error.__cause__.strerror}"
            ) from error
        raise
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(
                f"{out}: another packing is at work there; wait for it, or choose another folder"
            ) from error
        except OSError:
            pass  # a file system without locks; the check is a courtesy
        yield
    finally:
        os.close(folder)


def _check_out(out: Path, prefix: str, jobs: Sequence[ShardJob]) -> None:
    names = {job.shard.name for job in jobs}
    if foreign := sorted({path.name for path in out.glob(f"{prefix}-*.tar")} - names):
        raise RequestError(
            f"{out}: holds {foreign[0]}, which this corpus does not make (it makes "
            f"{counted(len(jobs), 'shard')}). Remove it, or choose another folder"
        )
    held = read_ledger(out / LEDGER)
    other = prefix if held is None else held.get("prefix", prefix)
    if other != prefix:
        raise RequestError(
            f"{out}: holds the shards {other}-*.tar and their {LEDGER}, which this packing would overwrite. "
            "Choose another folder for each packing"
        )


def _check_report(report: PackReport, source: PackSource) -> None:
    if report.records:
        return
    missing, found = report.missing_licenses(), report.licenses()
    if missing and len(missing) == len(report.wanted_licenses):
        guess = next(filter(None, (nearest(name, found) for name in missing)), "")
        counts = [f"{name} ({counted(rows, 'row')})" for name, rows in found.items()]
        more = f" and {len(counts) - _SHOWN:,} others" if len(counts) > _SHOWN else ""
        raise RequestError(
            f"{source.path}: no row has the licence {' or '.join(missing)}.{guess} "
            f"Licences there: {', '.join(counts[:_SHOWN])}{more}"
        )
    with (report.out / DROPPED).open(encoding="utf-8") as dropped:
        first = json.loads(next(dropped))["detail"]
    raise DataError(
        f"{source.path}: none of its {counted(report.rows, 'row')} can be used; "
        f"{report.out / DROPPED} says why. The first: {first}"
    )
