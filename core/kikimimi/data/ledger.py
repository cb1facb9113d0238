"""The account of a packing: what became a record, what was left out, and why."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kikimimi.progress import duration

MISSING, UNDECODABLE, NO_TEXT = "missing file", "undecodable audio", "empty text"
"""Why a row is left out."""


@dataclass(frozen=True)
class Dropped:
    """A row of the manifest that is in no shard.

    Attributes:
        row: Its number, from 0.
        path: Of the audio file, as the manifest has it.
        reason: Missing file, undecodable audio or empty text.
        detail: The whole message.
        seconds: Length of its audio, or None where that is not known [s].
    """

    row: int
    path: str
    reason: str
    detail: str
    seconds: float | None


@dataclass(frozen=True)
class PackedShard:
    """What one shard holds.

    Attributes:
        name: File name.
        made_from: SHA-256 (hex) of the rows, of size and time of the audio files, and of the settings.
        records: How many.
        seconds: Length of their audio [s].
        silent: How many of them are silent (`kikimimi.data.audio.is_silent`), kept nevertheless.
        dropped: Rows in its range that are left out.
    """

    name: str
    made_from: str
    records: int
    seconds: float
    silent: int
    dropped: list[Dropped] = field(default_factory=list)


@dataclass(frozen=True)
class PackReport:
    """What was packed.

    Attributes:
        out: Folder of the shards.
        pattern: Names all the shards, as a recipe does.
        rows: Rows of the manifest.
        shards: In order.
        kept_shards: How many of them were there before.
    """

    out: Path
    pattern: str
    rows: int
    shards: list[PackedShard]
    kept_shards: int

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
        """How many records are silent."""
        return sum(shard.silent for shard in self.shards)

    def dropped(self) -> dict[str, dict[str, float]]:
        """Return, for each reason, ``rows``, ``seconds`` and ``rows_of_unknown_length``."""
        reasons: dict[str, dict[str, float]] = {}
        for drop in (drop for shard in self.shards for drop in shard.dropped):
            counts = reasons.setdefault(drop.reason, {"rows": 0, "seconds": 0.0, "rows_of_unknown_length": 0})
            counts["rows"] += 1
            counts["seconds"] = round(counts["seconds"] + (drop.seconds or 0.0), 3)
            counts["rows_of_unknown_length"] += drop.seconds is None
        return reasons

    def summary(self) -> str:
        """Return one line: what was packed and what was left out."""
        dropped = ", ".join(
            f"{counts['rows']:g} {reason} ({_length(counts)})" for reason, counts in self.dropped().items()
        )
        line = (
            f"{self.records} of {self.rows} rows, {duration(self.seconds)} of audio, "
            f"{len(self.shards)} shards ({self.kept_shards} were there before): {self.pattern}; "
            f"dropped: {dropped or 'none'}"
        )
        return f"{line}; silent but kept: {self.silent}" if self.silent else line

    def write(self, manifest: Path, sample_rate: int) -> None:
        """Write ``ledger.json``: the counts, every row that was left out, and the shards.

        Args:
            manifest: That was packed.
            sample_rate: Of the packed audio [Hz].
        """
        ledger = {
            "manifest": manifest.name,
            "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
            "sample_rate": sample_rate,
            "rows": self.rows,
            "records": self.records,
            "seconds": round(self.seconds, 3),
            "silent": self.silent,
            "dropped": self.dropped(),
            "dropped_rows": [asdict(drop) for shard in self.shards for drop in shard.dropped],
            "shards": [
                {"name": shard.name, "records": shard.records, "seconds": shard.seconds}
                for shard in self.shards
            ],
        }
        write_json(self.out / "ledger.json", ledger)


def write_json(path: Path, data: Any) -> None:
    """Write JSON to a file, all of it or nothing."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _length(counts: dict[str, float]) -> str:
    known, unknown = duration(counts["seconds"]), counts["rows_of_unknown_length"]
    return f"{known}, {unknown:g} of unknown length" if unknown else known
