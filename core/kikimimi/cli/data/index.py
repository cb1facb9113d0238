"""``kikimimi data index``."""

from __future__ import annotations

from typing import Annotated

import typer


def index(
    shards: Annotated[list[str], typer.Argument(metavar="SHARD...", help="Shards, or patterns in quotes.")],
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out records that cannot be used, and list them.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes, a shard at a time each.")] = 1,
) -> None:
    """Index shards that were made elsewhere, or that have changed."""
    from kikimimi.console.progress import Progress
    from kikimimi.data.shards.indexing import index_shards
    from kikimimi.data.shards.shards import expand

    paths = [path for pattern in shards for path in expand(pattern)]
    with Progress("Indexing", len(paths), "shards") as progress:
        report = index_shards(paths, skip=skip, workers=workers, progress=progress)
    typer.echo(report.summary())
