"""``kikimimi data pack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pack(
    manifest: Annotated[
        Path,
        typer.Argument(
            help="CSV, TSV or JSON Lines with path and text; language and other columns are kept."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the shards, their indexes and ledger.json.")],
    records_per_shard: Annotated[
        int, typer.Option(min=1, help="Rows of the manifest for each shard.")
    ] = 1000,
    prefix: Annotated[str, typer.Option(help="What the names of the shards begin with.")] = "shard",
    sample_rate: Annotated[int, typer.Option(min=1, help="Of the packed audio [Hz].")] = 16_000,
) -> None:
    """Pack audio files into shards (WebDataset tar, FLAC) that training reads. Whole shards are kept."""
    from kikimimi.data.manifest import read_manifest
    from kikimimi.data.pack import pack as pack_manifest
    from kikimimi.progress import Progress

    with Progress("Packing", len(read_manifest(manifest)), "clips") as progress:
        report = pack_manifest(
            manifest,
            out,
            sample_rate=sample_rate,
            records_per_shard=records_per_shard,
            prefix=prefix,
            progress=progress,
        )
    typer.echo(report.summary())
