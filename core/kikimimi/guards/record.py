"""``guards.json`` of a run folder: verdicts of weights of the run, and the readings that they are from."""

from __future__ import annotations

import math
from collections.abc import Mapping

from typing_extensions import TypedDict

from kikimimi.console.terminal import json_text
from kikimimi.files.reading import MEBIBYTE, damaged, file_there, read_json
from kikimimi.files.writing import whole_file
from kikimimi.guards.readings import Readings
from kikimimi.guards.verdict import Verdict
from kikimimi.run.folder import RunFolder

GUARDS_FILE = "guards.json"
"""Name of the file in a run folder."""
_LARGEST = 64 * MEBIBYTE
_AGAIN = "Delete it: 'kikimimi evaluate' makes it again"


class GuardRecord(TypedDict):
    """What guards found in a run.

    Attributes:
        verdicts: Verdict of each system: the recipe's name is what the run left, ``RECIPE@STAGE`` what a
            stage left.
        readings: What they are from.
    """

    verdicts: dict[str, Verdict]
    readings: list[Readings]


def read_guards(run: RunFolder) -> GuardRecord:
    """Return what guards found in a run; empty where nothing was measured.

    Raises:
        DamagedError: The file is damaged.
    """
    path = run.path / GUARDS_FILE
    if not file_there(path, _AGAIN):
        return {"verdicts": {}, "readings": []}
    found: GuardRecord = read_json(path, GuardRecord, limit=_LARGEST, remedy=_AGAIN)
    for system, verdict in found["verdicts"].items():
        for row in verdict["rows"]:
            values = [value for value in (row["before"], row["after"]) if value is not None]
            if not all(math.isfinite(value) and value >= 0 for value in values) or (
                row["unit"] == "share" and max(values, default=0) > 1
            ):
                raise damaged(path, f"{system}: {row['what']}: a value is none that there can be", _AGAIN)
    for readings in found["readings"]:
        if any(tokens < 1 for losses in readings["losses"].values() for _, tokens in losses):
            raise damaged(path, "the loss of a text is of no token", _AGAIN)
    return found


def find_readings(record: GuardRecord, identity: Mapping[str, str]) -> Readings | None:
    """Return what was measured before of the same, if anything was."""
    return next((one for one in record["readings"] if one["identity"] == dict(identity)), None)


def write_guards(run: RunFolder, record: GuardRecord) -> None:
    """Write what guards found, whole or not at all."""
    with whole_file(run.path / GUARDS_FILE) as unfinished:
        unfinished.write_text(json_text(record, indent=1) + "\n", encoding="utf-8")
