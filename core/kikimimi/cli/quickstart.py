"""``kikimimi quickstart``."""

from __future__ import annotations

from pathlib import Path

import typer


def quickstart(
    overrides: list[str] = typer.Argument(None, help="Changes to the recipe, as for train."),
    out: Path = typer.Option(Path("runs"), "--out", help="Where the run folder goes."),
    chain: bool = typer.Option(
        False,
        "--chain",
        help="The stages of the Japanese chain in small: text, adapter, spoken instructions, preferences.",
    ),
) -> None:
    """From nothing to a trained speech LLM: speak, pack, train, evaluate, report. Minutes on two cores."""
    from kikimimi.quickstart import quickstart as run_quickstart

    outcome = run_quickstart(overrides or [], out, chain=chain)
    typer.echo(str(outcome.run.report))
