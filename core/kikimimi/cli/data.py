"""``kikimimi data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make, pack and index training data.", no_args_is_help=True)


@app.command()
def synth(
    grammar: Annotated[str, typer.Argument(help="A grammar (YAML), or the name of a shipped one: ja_small.")],
    out: Annotated[Path, typer.Option(help="Folder for train.csv, held_out.csv and clips/.")],
    count: Annotated[int, typer.Option(min=1, help="Training sentences.")] = 1000,
    held_out: Annotated[int, typer.Option(min=0, help="Held-out sentences; none is in training.")] = 100,
    voice: Annotated[
        str, typer.Option(help="A registered voice ('kikimimi plugins' lists them).")
    ] = "open_jtalk",
    seed: Annotated[int, typer.Option(help="Of the sentences, and of the speed and pitch of each.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that speak.")] = 2,
) -> None:
    """Make sentences from a grammar and speak them. Run it again to go on after an interruption."""
    from kikimimi.data.synth import synth as make

    report = make(grammar, out, count=count, held_out=held_out, voice=voice, seed=seed, workers=workers)
    typer.echo(report.summary())


@app.command()
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


@app.command()
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
