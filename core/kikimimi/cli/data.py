"""``kikimimi data``: make, pack, index and look at training data."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer
from annotated_types import Ge, Le

from kikimimi.cli.show import open_recipe
from kikimimi.console.terminal import json_text, say
from kikimimi.contracts.options import NonNegativeInt, PositiveInt
from kikimimi.data.codec import Codec, SampleRate

app = typer.Typer(help="Make, pack and index training data.", no_args_is_help=True)
_OF_PACKING = (
    "layout",
    "records_per_shard",
    "prefix",
    "sample_rate",
    "codec",
    "min_seconds",
    "max_seconds",
    "bad_rows",
)
_Shards = Annotated[list[str], typer.Argument(metavar="SHARD...", help="Shards, or patterns in quotes.")]


@app.command()
def synth(
    grammar: Annotated[
        str, typer.Argument(help="A grammar (YAML), or the name of a shipped one: ja_small, ja_dialogue.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for train.csv, held_out.csv and clips/.")],
    count: Annotated[PositiveInt, typer.Option(help="Training sentences.")] = 1000,
    held_out: Annotated[NonNegativeInt, typer.Option(help="Held-out sentences; none is in training.")] = 100,
    instructions: Annotated[
        NonNegativeInt,
        typer.Option(
            help="Spoken instructions for training (instructions.jsonl); as many are held out as sentences."
        ),
    ] = 0,
    preferences: Annotated[
        NonNegativeInt, typer.Option(help="Preference pairs beside them (preferences.jsonl).")
    ] = 0,
    texts: Annotated[
        NonNegativeInt, typer.Option(help="Conversations without audio beside them (texts.jsonl).")
    ] = 0,
    voice: Annotated[
        str, typer.Option(help="A registered voice ('kikimimi plugins' lists them).")
    ] = "open_jtalk",
    seed: Annotated[int, typer.Option(help="Seed of the sentences, and of each one's speed and pitch.")] = 0,
    workers: Annotated[PositiveInt, typer.Option(help="Processes that speak.")] = 2,
) -> None:
    """Make sentences from a grammar and speak them. Run it again to go on after an interruption."""
    from kikimimi.errors import RequestError
    from kikimimi.synth.synth import DialogueSizes, synth as make

    if (preferences or texts) and not instructions:
        raise RequestError("--preferences and --texts stand beside instructions: give --instructions as well")
    report = make(
        grammar,
        out,
        count=count,
        held_out=held_out,
        dialogue=DialogueSizes(instructions=instructions, preferences=preferences, texts=texts)
        if instructions
        else None,
        voice=voice,
        seed=seed,
        workers=workers,
    )
    say(report.summary())


@app.command()
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
    sample_rate: Annotated[SampleRate, typer.Option(help="Sampling rate of packed audio, in Hz.")] = 16_000,
    codec: Annotated[
        Codec,
        typer.Option(
            help="flac: 16 bits, lossless. opus: for speech a sixth of the size, not lossless, and "
            "slow to make: 20 minutes of audio take a core one minute."
        ),
    ] = "flac",
    min_seconds: Annotated[
        float | None,
        typer.Option(help="Shortest clip, in seconds; other rows are left out.", show_default="any"),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(help="Longest clip, in seconds; other rows are left out.", show_default="any"),
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
    bad_rows: Annotated[
        Literal["drop", "fail"],
        typer.Option(help="drop: leave malformed rows out, and count them. fail: stop at the first."),
    ] = "drop",
    records_per_shard: Annotated[PositiveInt, typer.Option(help="Rows of the corpus for each shard.")] = 1000,
    prefix: Annotated[str, typer.Option(help="What the names of the shards begin with.")] = "shard",
    workers: Annotated[
        int | None,
        Ge(1),
        typer.Option(help="Processes that pack.", show_default="one for each core, at most 8"),
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
        say(f"{indexed.summary()}; they stay where they are and now have their indexes")
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
            codec=codec,
            min_seconds=min_seconds,
            max_seconds=max_seconds,
            licenses=licenses or [],
            bad_rows=bad_rows,
            workers=workers,
            progress=progress,
        )
    say(report.summary())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@app.command()
def index(
    shards: _Shards,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out records that cannot be used, and list them.")
    ] = False,
    workers: Annotated[PositiveInt, typer.Option(help="Processes, a shard at a time each.")] = 1,
) -> None:
    """Index shards that were made elsewhere, or that have changed."""
    from kikimimi.console.progress import Progress
    from kikimimi.data.shards.indexing import index_shards
    from kikimimi.data.shards.pattern import expand

    paths = [path for pattern in shards for path in expand(pattern)]
    with Progress("Indexing", len(paths), "shards") as progress:
        report = index_shards(paths, skip=skip, workers=workers, progress=progress)
    say(report.summary())


@app.command()
def check(
    shards: _Shards,
    workers: Annotated[PositiveInt, typer.Option(help="Processes that read and decode.")] = 1,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
) -> None:
    """Verify every record: its hash, its form, and every clip decoded to its end. A bad one: exit code 1."""
    from kikimimi.console.progress import Progress
    from kikimimi.console.words import counted
    from kikimimi.data.shards.check import ShardCheck
    from kikimimi.data.shards.pattern import expand
    from kikimimi.files.writing import check_target

    check_target(as_json)
    to_do = ShardCheck([name for pattern in shards for name in expand(pattern)])
    with Progress("Checking", to_do.records, "records") as progress:
        report = to_do.run(workers=workers, progress=progress)
    if as_json is not None:
        _write_json(as_json, asdict(report), indent=2)
    if report.problems:
        say(report.table())
    found = f"{counted(report.records, 'record')} in {counted(report.shards, 'shard')}"
    say(f"{found}, {counted(len(report.problems), 'problem')}")
    if report.problems:
        raise typer.Exit(1)


@app.command()
def stats(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE", help="Shards, or patterns in quotes; or a recipe (YAML), for its datasets."
        ),
    ],
    html: Annotated[Path | None, typer.Option(help="Write a page with charts to this file.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
    worst: Annotated[
        NonNegativeInt,
        typer.Option(help="Records to list whose text is too much, or too little, for the audio."),
    ] = 10,
) -> None:
    """Measure data: hours, lengths, languages, licences, and texts that do not fit their audio."""
    from kikimimi.console.rich_console import SafeConsole
    from kikimimi.files.writing import check_target
    from kikimimi.inspect.stats import find_shards, measure_stats
    from kikimimi.inspect.stats_text import print_stats

    check_target(html)
    check_target(as_json)
    measured = [
        measure_stats(shards, name=name, worst=worst) for name, shards in find_shards(sources).items()
    ]
    print_stats(SafeConsole(), measured)
    if html is not None:
        from kikimimi.report.page import save_page
        from kikimimi.report.stats_page import render_stats

        save_page(html, render_stats(measured))
        say(f"page: {html}", error=True)
    if as_json is not None:
        _write_json(as_json, [item.to_json() for item in measured], indent=1)
        say(f"figures: {as_json}", error=True)


@app.command(name="show")
def show_data(
    source: Annotated[
        Path, typer.Argument(metavar="RECIPE_OR_RUN", help="A recipe (YAML), or a run folder.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to the recipe, as for train.")
    ] = None,
    count: Annotated[PositiveInt, typer.Option("-n", "--count", help="Records of each stage.")] = 5,
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only records of this dataset.")] = None,
    step: Annotated[PositiveInt, typer.Option(help="Begin with this optimiser step.")] = 1,
    seed: Annotated[int | None, Ge(0), typer.Option(help="Seed in place of the recipe's.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Also list the tokens, one on a line.")] = False,
) -> None:
    """Print what the model is shown, in training order: rendered text, clips, lengths, and what it learns."""
    from dataclasses import replace

    from kikimimi.console.rich_console import SafeConsole
    from kikimimi.inspect.show import print_stage, show as show_stages

    recipe, assets = open_recipe(source, overrides or [], "kikimimi data show")
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    console = SafeConsole()
    for shown in show_stages(recipe, assets=assets, stage=stage, dataset=dataset, count=count, step=step):
        print_stage(console, shown, tokens=tokens)


def _take_bounds(command: Any) -> None:
    """Give typer the bounds that the types of a command's options declare."""
    for hint in get_type_hints(command, include_extras=True).values():
        for bound in getattr(hint, "__metadata__", ()):
            if isinstance(bound, Ge):
                hint.__metadata__[-1].min = bound.ge
            elif isinstance(bound, Le):
                hint.__metadata__[-1].max = bound.le


for _command in app.registered_commands:
    _take_bounds(_command.callback)


def _write_json(path: Path, value: Any, *, indent: int) -> None:
    from kikimimi.files.writing import whole_file

    text = json_text(value, indent=indent)
    with whole_file(path) as unfinished:
        unfinished.write_text(f"{text}\n", encoding="utf-8")
