"""Scores as tables for terminals."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kikimimi.console.rich_console import SafeConsole
from kikimimi.console.terminal import say
from kikimimi.console.words import counted
from kikimimi.contracts.metric import Score
from kikimimi.evaluation.bootstrap import Comparison
from kikimimi.evaluation.score import EDITS, TABLED


def print_scores(scores: Mapping[str, Mapping[str, Score]]) -> None:
    """Print the name of each evaluation, and under it one row per system."""
    found = [score for systems in scores.values() for score in systems.values()]
    # One narrow column, so that a table with long names stands on 80 columns.
    counts = ["cut/loop"] if any(set(TABLED) & score.counts.keys() for score in found) else []
    edits = ["sub/del/ins"] if any(EDITS[0] in score.details for score in found) else []
    skipped = ["skipped"] if any(score.skipped for score in found) else []
    table = _table("system", ("score", "95 %", *edits, "clips", *skipped, *counts))
    normalisers = {f"{score.normaliser} {score.normaliser_hash or ''}".rstrip() for score in found}
    for name, systems in scores.items():
        table.add_row(Text(name, style="bold"))
        for system, score in systems.items():
            edited = [f"{score.details[kind]}" for kind in EDITS if kind in score.details]
            table.add_row(
                Padding(Text(system), (0, 0, 0, 1)),
                f"{score.label} {score.shown(form='6.2f')}{'!' if score.invalid else ''}",
                score.ends,
                *("/".join(edited) for _ in edits),
                str(score.count),
                *(str(score.skipped) for _ in skipped),
                *("/".join(str(score.counts.get(count, "?")) for count in TABLED) for _ in counts),
            )
    SafeConsole().print(table)
    if counts:
        say("cut/loop: answers that ran out of tokens / that say a piece over and over")
    drawn = ", ".join(sorted({score.drawn for score in found if score.drawn}))
    say(f"95 %: interval by the bootstrap{drawn}; normaliser: {', '.join(sorted(normalisers))}")
    for name, systems in scores.items():
        for system, score in systems.items():
            if score.invalid:
                say(f"{name}: {system}: not valid (!): {score.invalid}", error=True)
            if score.thoughts:
                said = counted(score.thoughts, "answer")
                say(f"{name}: {system}: {said} with thoughts, which are not scored")


def print_comparisons(pairs: Mapping[str, Mapping[tuple[str, str], Comparison]], unit: str) -> None:
    """Print how each two systems differ: under the name of each group one row per pair; nothing of none.

    Args:
        pairs: Value of one system less that of another, by group and by their names.
        unit: Unit of the differences.
    """
    if not any(pairs.values()):
        return
    table = _table("differences", ("difference", "95 %", "", "differ", "clips"))
    for group, found in pairs.items():
        ones = {one for one, _ in found}
        alone = f"{next(iter(ones))} less" if len(ones) == 1 else ""
        table.add_row(Text(f"{group}: {alone}" if alone else group, style="bold"))
        for (one, other), pair in found.items():
            table.add_row(
                Padding(Text(other if alone else f"{one} less {other}"), (0, 0, 0, 1)),
                f"{pair.difference:+.2f} {unit}".rstrip(),
                f"{pair.low:+.2f} to {pair.high:+.2f}",
                "*" if pair.significant else "",
                str(pair.differ),
                str(pair.count),
            )
    SafeConsole().print(table)
    say("*: the interval of the paired bootstrap leaves out 0; differ: clips whose scores differ")


def print_parts(field: str, systems: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Print what systems score on parts: under the name of each system one row per group.

    Args:
        field: What parts are told apart by.
        systems: Values of each system, by group ``value``, ``count``, ``low`` and ``high``.
    """
    table = _table(f"by {field}", ("score", "95 %", "clips"))
    for name, groups in systems.items():
        table.add_row(Text(name, style="bold"))
        for group, one in groups.items():
            ends = f"{one['low']:.2f} to {one['high']:.2f}" if "low" in one else ""
            table.add_row(
                Padding(Text(group), (0, 0, 0, 1)), f"{one['value']:.2f}", ends, f"{one['count']:g}"
            )
    SafeConsole().print(table)


def _table(first: str, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(first, overflow="fold")  # a long name takes several lines, but is never cut
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right")
    return table
