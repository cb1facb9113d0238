"""The table of faults in docs/robustness.md: kinds, how many cases the tests try, and what happens.

A test says so by its mark, ``@pytest.mark.fault(KIND, OUTCOME)``, a file by ``pytestmark``. A test that tries
many cases by itself says how many: ``cases=8000``. ``pytest --collect-only --write-faults`` writes the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

Faults = Mapping[tuple[str, str], int]
"""Kind and outcome to the number of cases."""

FAULTS = pytest.StashKey[Faults]()
PAGE = Path(__file__).parents[1] / "docs" / "robustness.md"
_GENERATED = re.compile(r"(<!-- generated.*?-->\n)(.*)(<!-- end -->)", re.DOTALL)


def count_faults(items: Iterable[pytest.Item]) -> Faults:
    """Return the faults that tests try, in order of kinds."""
    found: dict[tuple[str, str], int] = {}
    for item in items:
        mark = item.get_closest_marker("fault")
        if mark is not None:
            kind, outcome = mark.args
            found[kind, outcome] = found.get((kind, outcome), 0) + mark.kwargs.get("cases", 1)
    return dict(sorted(found.items()))


def page_with(faults: Faults) -> str:
    """Return the page with this table."""
    rows = [f"| {kind} | {cases:,} | {outcome} |" for (kind, outcome), cases in faults.items()]
    total = f"{sum(faults.values()):,} cases of {len({kind for kind, _ in faults})} kinds."
    table = "\n".join(["| kind | cases | what happens |", "|---|---|---|", *rows, "", total, ""])
    return _GENERATED.sub(lambda found: found[1] + table + found[3], PAGE.read_text("utf-8"))


def write_page(faults: Faults) -> None:
    """Write the page anew."""
    PAGE.write_text(page_with(faults), encoding="utf-8")
