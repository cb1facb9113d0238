"""Scores as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from kikimimi.evaluation.score import Score


def print_scores(scores: Mapping[str, Mapping[str, Score]]) -> None:
    """Print one row per evaluation and system."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("evaluation", "system"):
        table.add_column(column, overflow="fold")  # a long name takes several lines, but is never cut
    for column in ("metric", "rate", "sub/del/ins", "clips", "skipped"):
        table.add_column(column, no_wrap=True, justify="left" if column == "metric" else "right")
    normalisers = {score.normaliser for systems in scores.values() for score in systems.values()}
    for name, systems in scores.items():
        for system, score in systems.items():
            table.add_row(
                name,
                system,
                score.metric.upper(),
                f"{score.value:.2f} %",
                f"{score.substitutions}/{score.deletions}/{score.insertions}",
                str(score.count),
                str(score.skipped),
            )
    Console().print(table)
    print(f"normaliser: {', '.join(sorted(normalisers))}")
