"""Verdicts of guards as a table in a terminal."""

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kikimimi.console.rich_console import SafeConsole
from kikimimi.guards.verdict import Verdict, shown_value

VERDICTS: dict[bool | None, str] = {True: "passed", False: "FAILED", None: "n/a"}
"""What a row is said to be."""
_STYLES = {True: "green", False: "bold red", None: "dim"}


def print_verdict(verdict: Verdict) -> None:
    """Print a verdict, a row for each line, and under it why lines failed or are not applicable."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("guards", overflow="fold")
    for column in ("before", "after"):
        table.add_column(column, no_wrap=True, justify="right")
    table.add_column("bound", overflow="fold")
    table.add_column("", no_wrap=True)
    before = ""
    for row in verdict["rows"]:
        if row["guard"] != before:
            table.add_row(Text(before := row["guard"], style="bold"))
        passed = row["passed"]
        table.add_row(
            Padding(Text(row["what"]), (0, 0, 0, 1)),
            shown_value(row["before"], row["unit"]),
            shown_value(row["after"], row["unit"]),
            row["bound"],
            Text(VERDICTS[passed], style=_STYLES[passed]),
        )
    console = SafeConsole()
    console.print(table)
    console.print(f"before: {verdict['before']}; after: what stage {verdict['stage']} has left")
    unknown: dict[str, list[str]] = {}
    for row in verdict["rows"]:
        if row["passed"] is False:
            console.print(f"FAILED {row['guard']}, {row['what']}: {row['why']}", markup=False)
        elif row["why"]:
            unknown.setdefault(row["why"], []).append(row["guard"])
    for why, guards in unknown.items():
        console.print(f"n/a {', '.join(dict.fromkeys(guards))}: {why}", markup=False)
