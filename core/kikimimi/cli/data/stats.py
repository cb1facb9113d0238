"""``kikimimi data stats``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def stats(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Shards, or patterns in quotes; or a recipe (YAML), for its datasets.",
        ),
    ],
    html: Annotated[Path | None, typer.Option(help="Write a page with charts to this file.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    worst: Annotated[
        int, typer.Option(min=0, help="Records to list whose text is too much, or too little, for the audio.")
    ] = 10,
) -> None:
    """Measure data: hours, lengths, languages, licences, and texts that do not fit their audio."""
    from rich.console import Console

    from kikimimi.inspect.stats import find_shards, measure_stats
    from kikimimi.inspect.stats_text import print_stats

    measured = [
        measure_stats(shards, name=name, worst=worst) for name, shards in find_shards(sources).items()
    ]
    print_stats(Console(), measured)
    if html is not None:
        from kikimimi.report.stats_page import write_stats_page

        write_stats_page(html, measured)
        typer.echo(f"page: {html}", err=True)
    if as_json is not None:
        as_json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([item.to_json() for item in measured], ensure_ascii=False, indent=1)
        as_json.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")
        typer.echo(f"figures: {as_json}", err=True)
