"""The table of faults is the one that the tests make."""

from __future__ import annotations

from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "robustness.md"


def test_the_table_is_up_to_date(request: pytest.FixtureRequest, page_of_faults: str) -> None:
    if request.config.args != request.config.getini("testpaths"):
        pytest.skip("only some of the tests are collected, and the table counts all")
    assert PAGE.read_text("utf-8") == page_of_faults, "pytest --collect-only --write-faults -n 0"
