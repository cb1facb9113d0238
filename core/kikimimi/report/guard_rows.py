"""The guards of a run as its report shows them: a table for each verdict, red where a guard failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kikimimi.guards.guard import is_guarded
from kikimimi.guards.record import read_guards
from kikimimi.guards.table import VERDICTS
from kikimimi.guards.verdict import GuardRow, shown_value
from kikimimi.run.folder import RunFolder

_CLASSES: dict[bool | None, str] = {True: "passed", False: "failed", None: "unknown"}


@dataclass(frozen=True, kw_only=True)
class GuardLine:
    """A line of the table."""

    guard: str
    """Name of the guard; empty in lines that follow one of the same."""
    what: str
    """What was measured."""
    before: str
    """Value before training."""
    after: str
    """Value as the run, or a stage, left it."""
    bound: str
    """What it is held against."""
    verdict: str
    """Whether it passed, in a word."""
    kind: str
    """The same as a class of the style sheet: passed, failed, unknown."""
    why: str
    """Why it failed, or is not applicable."""


@dataclass(frozen=True, kw_only=True)
class GuardTable:
    """What guards say of weights."""

    system: str
    """Name of what was measured, as scores call it."""
    note: str
    """Sentence that says what before and after are."""
    failed: Sequence[str]
    """Guards that failed."""
    lines: Sequence[GuardLine]
    """Lines, guard by guard."""


@dataclass(frozen=True, kw_only=True)
class GuardPart:
    """The part of a report on guards."""

    tables: Sequence[GuardTable]
    """Tables: of the run, then of stages whose gates asked for guards."""
    missing: str = ""
    """Why there is none; empty where there is one."""


def guard_part(run: RunFolder) -> GuardPart | None:
    """Return what the report of a run says of guards; None of a run that has none.

    Raises:
        DamagedError: What was measured is damaged.
    """
    verdicts = read_guards(run)["verdicts"]
    if not verdicts:
        missing = f"not measured yet: kikimimi evaluate {run.path}"
        return GuardPart(tables=[], missing=missing) if is_guarded(run.recipe) else None
    own = sorted(verdicts.items(), key=lambda item: item[0] != run.recipe.name)
    return GuardPart(
        tables=[
            GuardTable(
                system=system,
                note=f"Before: {verdict['before']}. After: what stage {verdict['stage']} left.",
                failed=failed_guards(verdict["rows"]),
                lines=list(_lines(verdict["rows"])),
            )
            for system, verdict in own
        ]
    )


def failed_guards(rows: Sequence[GuardRow]) -> list[str]:
    """Return the guards of which a line failed."""
    return list(dict.fromkeys(row["guard"] for row in rows if row["passed"] is False))


def _lines(rows: Sequence[GuardRow]) -> Iterator[GuardLine]:
    guard = ""
    for row in rows:
        yield GuardLine(
            guard="" if row["guard"] == guard else row["guard"],
            what=row["what"],
            before=shown_value(row["before"], row["unit"]),
            after=shown_value(row["after"], row["unit"]),
            bound=row["bound"],
            verdict=VERDICTS[row["passed"]].lower() if row["passed"] is not None else "not applicable",
            kind=_CLASSES[row["passed"]],
            why=row["why"],
        )
        guard = row["guard"]
