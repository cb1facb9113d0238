"""``kikimimi data index``."""

from __future__ import annotations

from typing import Annotated

import typer


def index(
    shards: Annotated[list[str], typer.Argument(metavar="SHARD...", help="Shards, or patterns in quotes.")],
) -> None:
    """Index shards that were made elsewhere, or that have changed."""
    from kikimimi.data.index import ShardIndex, build_index
    from kikimimi.data.shards import expand
    from kikimimi.progress import Progress, duration

    paths = [path for pattern in shards for path in expand(pattern)]
    records, seconds = 0, 0.0
    with Progress("Indexing", len(paths), "shards") as progress:
        for path in paths:
            build_index(path)
            loaded = ShardIndex.load(path)
            records, seconds = records + len(loaded), seconds + float(loaded.seconds.sum(dtype="float64"))
            progress.advance()
    typer.echo(f"{records} records, {duration(seconds)} of audio in {len(paths)} shards")
