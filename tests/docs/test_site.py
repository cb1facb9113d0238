"""The site's pages: `make site` finds dead links and missing names, and is not run here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MADE = {"index.md", "names-in-full.md"}
"""Pages that `docs/site_hooks.py` makes: the README, and all names from their docstrings."""


def pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for one in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(one)


def test_every_page_has_its_place() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    found = list(pages(config["nav"]))
    assert len(found) == len(set(found))
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} <= set(found)
    for name in set(found) - MADE:
        assert (DOCS / name).is_file() or (ROOT / name).is_file(), name
    assert found[0] == "index.md"
    assert config["strict"]


def test_what_its_search_needs_is_there() -> None:
    """The theme would fetch it from a server."""
    hooks = (DOCS / "site_hooks.py").read_text(encoding="utf-8")
    assert '"worker_in_frame.js"' in hooks
    assert (DOCS / "worker_in_frame.js").is_file()
