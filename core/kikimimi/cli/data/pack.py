"""``kikimimi data pack``."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_OF_PACKING = ("layout", "records_per_shard", "prefix", "sample_rate", "codec", "min_seconds", "max_seconds")


class Codec(StrEnum):
    """How clips are encoded."""

    flac = "flac"
    opus = "opus"


def pack(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="The corpus: a CSV, TSV or JSON Lines file with path and text, or a folder as it was "
            "downloaded. WebDataset tars (a .tar, a pattern in quotes, a folder of them) are only indexed."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="Folder for the shards, their indexes, ledger.json and dropped.jsonl. Left out for tars."
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Options of the layout, such as text=sentence."),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="How the corpus is laid out ('kikimimi plugins' lists the layouts).",
            show_default="the one that matches",
        ),
    ] = None,
    sample_rate: Annotated[int, typer.Option(min=1, help="Of the packed audio [Hz].")] = 16_000,
    codec: Annotated[
        Codec,
        typer.Option(
            help="flac: 16 bits, lossless. opus: for speech a sixth of the size, not lossless, and "
            "slow to make: 20 minutes of audio take a core one minute."
        ),
    ] = Codec.flac,
    min_seconds: Annotated[
        float | None, typer.Option(help="Leave rows out that have a shorter clip [s].", show_default="any")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Leave rows out that have a longer clip [s].", show_default="any")
    ] = None,
    licenses: Annotated[
        list[str] | None,
        typer.Option(
            "--license",
            metavar="NAME",
            help="Keep only rows with this licence (meta.license); may be given several times.",
            show_default="all",
        ),
    ] = None,
    records_per_shard: Annotated[int, typer.Option(min=1, help="Rows of the corpus for each shard.")] = 1000,
    prefix: Annotated[str, typer.Option(help="What the names of the shards begin with.")] = "shard",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that pack.", show_default="one for each core, at most 8"),
    ] = None,
) -> None:
    """Pack a corpus into shards (WebDataset tar) that training reads. Run it again to go on where it stopped.

    The shards are the same, byte for byte, with any number of workers and after any interruption. What is
    left out is counted, with the reason, in ledger.json.
    """
    from kikimimi.console.progress import Progress
    from kikimimi.data.packing.pack import pack as pack_corpus
    from kikimimi.data.packing.source import PackSource, find_tars
    from kikimimi.data.shards.indexing import index_shards
    from kikimimi.errors import RequestError

    workers = workers or min(8, _cores())
    if out is not None and out.suffix == ".tar":
        raise RequestError(f"{out} stands where OUT is expected. A pattern of tars must be in quotes")
    if layout is None and (tars := find_tars(source)):
        sources = {name: context.get_parameter_source(name) for name in _OF_PACKING}
        given = [name for name, source_ in sources.items() if source_ and source_.name == "COMMANDLINE"]
        given += ["license"] if licenses else []
        if given or options:
            said = ", ".join([*(f"--{name.replace('_', '-')}" for name in given), *(options or [])])
            raise RequestError(
                f"{source}: these tars are shards already and are only indexed: leave out {said}"
            )
        if out is not None and any(out.resolve() != Path(tar).resolve().parent for tar in tars):
            raise RequestError(
                f"{source}: these tars are shards already, and their indexes go beside them: leave out {out}"
            )
        with Progress("Indexing", len(tars), "shards") as progress:
            indexed = index_shards(tars, workers=workers, progress=progress)
        typer.echo(f"{indexed.summary()}; they stay where they are and now have their indexes")
        return
    if out is None or "=" in out.name:
        given_out = "" if out is None else f", not '{out}'"
        raise RequestError(f"OUT must be given after {source}: the folder for the shards{given_out}")
    opened = PackSource.open(source, layout, options or [])
    with Progress("Packing", len(opened), "rows") as progress:
        report = pack_corpus(
            opened,
            out,
            sample_rate=sample_rate,
            records_per_shard=records_per_shard,
            prefix=prefix,
            codec=codec.value,
            min_seconds=min_seconds,
            max_seconds=max_seconds,
            licenses=licenses or [],
            workers=workers,
            progress=progress,
        )
    typer.echo(report.summary())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
