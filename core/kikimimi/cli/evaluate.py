"""``kikimimi evaluate``."""

from __future__ import annotations

import json
from pathlib import Path

import typer


def evaluate(
    run: Path = typer.Argument(..., help="A run folder."),
    only: list[str] = typer.Option([], "--only", help="Name of an evaluation; again for more. Default: all."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object instead of a table."),
) -> None:
    """Evaluate a run and its baselines, and write the report."""
    from kikimimi.evaluation.evaluate import evaluate as evaluate_run
    from kikimimi.evaluation.score import print_scores
    from kikimimi.report.run_report import write_run_report
    from kikimimi.run.folder import RunFolder

    folder = RunFolder.open(run)
    scores = evaluate_run(folder, only)
    write_run_report(folder)
    if as_json:
        typer.echo(
            json.dumps(
                {name: {s: v.to_json() for s, v in systems.items()} for name, systems in scores.items()}
            )
        )
        return
    print_scores(scores)
    typer.echo(f"report: {folder.report}", err=True)
