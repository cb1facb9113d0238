"""Texts are split at line feeds: `str.splitlines` cuts a transcript at nine other characters, too."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITH_CAUSE = {"core/kikimimi/inspect/describe.py"}  # YAML cuts comments at the same characters


def test_no_text_is_cut_at_rare_characters() -> None:
    sources = [path for room in ("core", "plugins") for path in (ROOT / room).rglob("*.py")]
    assert len(sources) > 100
    found = {
        path.relative_to(ROOT).as_posix()
        for path in sources
        if re.search(r"\.splitlines\(|\bcsv\.(?:reader|DictReader)\(", path.read_text(encoding="utf-8"))
    }
    assert found == WITH_CAUSE
