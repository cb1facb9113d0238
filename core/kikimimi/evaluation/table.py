"""Scores as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from kikimimi.evaluation.score import Score


def print_scores(scores: Mapping[str, Mapping[str, Score]]) -> None:
    """Print the name of each evaluation, and under it one row per system."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("system", overflow="fold")  # a long name takes several lines, but is never cut
    for column in ("error rate", "sub/del/ins", "clips", "skipped"):
        table.add_column(column, no_wrap=True, justify="right")
    normalisers = {score.normaliser for systems in scores.values() for score in systems.values()}
    for name, systems in scores.items():
        table.add_row(Text(name, style="bold"))
        for system, score in systems.items():
            table.add_row(
                Padding(Text(system), (0, 0, 0, 2)),
                f"{score.metric.upper()} {score.value:6.2f} %",
                f"{score.substitutions}/{score.deletions}/{score.insertions}",
                str(score.count),
                str(score.skipped),
            )
    Console().print(table)
    print(f"normaliser: {', '.join(sorted(normalisers))}")
