"""The file of results: one JSON for each card, written anew after every section."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FORMAT = 1
"""Changes when what stands in a file means something else."""


@dataclass
class Results:
    """What was measured of a card.

    Attributes:
        card: Its name.
        size: What was measured: `full` or `tiny`.
        sections: By name: seconds, and a result or the text of an error.
    """

    card: str
    size: str
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def path(self, folder: Path) -> Path:
        """Return where it is written."""
        card = re.sub(r"[^a-z0-9]+", "-", self.card.lower()).strip("-")
        return folder / f"{card}-{self.size}.json"

    def write(self, folder: Path) -> Path:
        """Write it, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        held = {
            "format": FORMAT,
            "card": self.card,
            "size": self.size,
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "sections": self.sections,
        }
        path = self.path(folder)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
        return path


def _commit() -> str | None:
    try:
        asked = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
