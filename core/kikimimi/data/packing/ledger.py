"""The account of a packing: what became a record, what was left out, and why.

``ledger.json`` holds the counts, ``dropped.jsonl`` every row that was left out, a line each. The lines are
copied from the notes of the shards without being held: they take no memory, however many they are.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kikimimi.console.words import amount, counted, nearest
from kikimimi.data.packing.shard import PackedShard, Tally, note_path
from kikimimi.data.whole_file import whole_file

LEDGER, DROPPED = "ledger.json", "dropped.jsonl"
"""Names of the files."""


@dataclass(frozen=True)
class PackReport:
    """What was packed.

    Attributes:
        out: Folder of the shards.
        pattern: Names all the shards, as a recipe does.
        rows: Rows of the corpus.
        shards: In order.
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
        found: Counter[str] = Counter()
        for shard in self.shards:
            found.update(shard.licenses)
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
        """Write ``ledger.json`` and ``dropped.jsonl``, each of them whole or not at all.

        Args:
            about: What was packed, and how: goes first.
        """
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
            unfinished.write_text(json.dumps(ledger, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _in_hours(seconds: float) -> float:
    return round(seconds / 3600, 4)
