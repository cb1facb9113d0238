"""Texts are split at line feeds: `str.splitlines` cuts a transcript at nine other characters, too.

Files that are opened as text are cut at carriage returns, and so is what `Path.read_text` returns.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CUTTING = {
    r"\.splitlines\(|\bcsv\.(?:reader|DictReader)\(|\bread_csv\b|\b(?:fileinput|linecache)\b": {
        "core/kikimimi/inspect/describe.py": "YAML cuts comments at the same characters",
    },
    r"\.readlines\(|\bTextIOWrapper\b|\.open\((?:\"rt?\"|encoding)|\.read_text\(": {
        "core/kikimimi/data/order/readers.py": "of the system",
        "core/kikimimi/data/packing/pack.py": "JSON, in which carriage returns are escaped",
        "core/kikimimi/data/packing/shard.py": "JSON, in which carriage returns are escaped",
        "core/kikimimi/published/auto_map/writing.py": "source code of this package",
        "core/kikimimi/quickstart.py": "shipped",
        "core/kikimimi/run/folder.py": "who holds a lock",
        "core/kikimimi/run/source.py": "JSON of pip",
        "core/kikimimi/scaffold/__init__.py": "shipped",
        "core/kikimimi/text/templates/__init__.py": "shipped",
        "plugins/layouts/kikimimi_layouts/llama_factory.py": "JSON, in which carriage returns are escaped",
    },
}
"""What cuts texts, and the files that do so with a cause."""


@pytest.mark.parametrize("pattern", CUTTING)
def test_no_text_is_cut_at_rare_characters(pattern: str) -> None:
    sources = [path for room in ("core", "plugins") for path in (ROOT / room).rglob("*.py")]
    assert len(sources) > 100
    found = {
        path.relative_to(ROOT).as_posix()
        for path in sources
        if re.search(pattern, path.read_text(encoding="utf-8"))
    }
    assert found == {*CUTTING[pattern]}
