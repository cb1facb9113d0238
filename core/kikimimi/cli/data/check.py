"""``kikimimi data check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    shards: Annotated[list[str], typer.Argument(metavar="SHARD...", help="Shards, or patterns in quotes.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that read and decode.")] = 1,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
) -> None:
    """Verify every record: its hash, its form, and every clip decoded to its end. A bad one: exit code 1."""
    import json

    from kikimimi.console.progress import Progress
    from kikimimi.console.words import counted
    from kikimimi.data.shards.check import ShardCheck
    from kikimimi.data.shards.shards import expand

    to_do = ShardCheck([name for pattern in shards for name in expand(pattern)])
    with Progress("Checking", to_do.records, "records") as progress:
        report = to_do.run(workers=workers, progress=progress)
    if as_json is not None:
        text = json.dumps(report.json(), ensure_ascii=False, indent=2)
        as_json.parent.mkdir(parents=True, exist_ok=True)
        as_json.write_text(f"{text}\n", encoding="utf-8")
    if report.problems:
        typer.echo(report.table())
    found = f"{counted(report.records, 'record')} in {counted(report.shards, 'shard')}"
    typer.echo(f"{found}, {counted(len(report.problems), 'problem')}")
    if report.problems:
        raise typer.Exit(1)
