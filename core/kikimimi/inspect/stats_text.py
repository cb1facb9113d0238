"""What a dataset holds, on the terminal."""

from collections.abc import Iterator, Sequence
from functools import partial

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from kikimimi.console.terminal import shortened, visible
from kikimimi.console.words import counted, format_value, hours, share, size
from kikimimi.inspect.distribution import PERCENTILES, Distribution
from kikimimi.inspect.stats import TOO_LITTLE, TOO_MUCH, Stats, Subset

BAR = 40  # columns
BINS = 12
TEXT = 200  # characters of a suspect's text; the JSON has all of it
LEFT_OUT = 20  # records that are named one by one
LABEL = 20  # columns, at least, where a label is that long
_WIDEST = 10_000  # columns, which no table reaches
_EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588"


def print_stats(console: Console, stats: Sequence[Stats]) -> None:
    """Print datasets one after the other; of several, a table of all of them first."""
    if len(stats) > 1:
        _print_overview(console, stats)
    for item in stats:
        _print_one(console, item)


def _print_overview(console: Console, stats: Sequence[Stats]) -> None:
    table = _table("dataset", "audio", "records", "clips", "characters", "size")
    rows = [(item.seconds, item.records, item.clips, item.characters, item.bytes) for item in stats]
    for item, (seconds, *counts, count) in zip(stats, rows, strict=True):
        table.add_row(Text(item.name), hours(seconds), *(f"{n:,}" for n in counts), size(count))
    table.add_section()
    seconds, *counts, count = (sum(column) for column in zip(*rows, strict=True))
    table.add_row("total", hours(seconds), *(f"{n:,}" for n in counts), size(count), style="bold")
    _print_table(console, table)


def _print_one(console: Console, stats: Stats) -> None:
    say = partial(_say, console)
    say(stats.name, "bold")
    records, clips = counted(stats.records, "record"), counted(stats.clips, "clip")
    say(
        f"{hours(stats.seconds)} of audio, {records}, {clips}, {counted(stats.characters, 'character')}, "
        f"{size(stats.bytes)} in {counted(stats.shards, 'shard')}"
    )
    if list(stats.clips_per_record) != [1]:
        parts = (
            f"{n:,} {counted(clips, 'clip') if clips else 'text only'}"
            for clips, n in sorted(stats.clips_per_record.items())
        )
        say(f"clips per record: {', '.join(parts)}")
    for title, spread in (
        ("Audio of a record", stats.record_seconds),
        ("Audio of a clip", stats.clip_seconds if stats.record_seconds != stats.clip_seconds else None),
        ("Text of a record", stats.record_characters),
    ):
        if spread is not None:
            say(f"\n{title} [{spread.unit}]", "bold")
            for line in _bars(spread.coarser(BINS)):
                console.print(line, soft_wrap=True)
    say("\nPercentiles", "bold")
    say("of the audio of records and clips [s], their text [characters], and by language [characters/s]")
    _print_table(console, _spreads(stats))
    for title, groups in (("language", stats.languages), ("licence", stats.licenses)):
        _print_table(console, _groups(title, groups, stats))
    _print_suspects(console, stats)
    if stats.left_out:
        say(f"Left out of the index: {counted(len(stats.left_out), 'record')}", "bold")
        for reason, count in stats.reasons.items():
            say(f"  {count:,}  {visible(reason)}")
        for item in stats.left_out[:LEFT_OUT]:
            say(f"    {visible(item.where)}: {visible(item.reason)}")
        if len(stats.left_out) > LEFT_OUT:
            say(f"    and {len(stats.left_out) - LEFT_OUT:,} more; --json lists all")
    say("")


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)


def _bars(spread: Distribution) -> Iterator[Text]:
    labels = [spread.label(number) for number in range(len(spread.counts))]
    width = max(map(len, labels))
    digits = max(len(f"{count:,}") for count in spread.counts)
    for label, count in zip(labels, spread.counts, strict=True):
        eighths = round(8 * BAR * count / max(spread.counts))
        eighths = max(eighths, 1 if count else 0)  # what is there is never invisible
        bar = _EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        line = Text.assemble(f"  {label:>{width}}  {count:>{digits},}  ", (bar, "cyan"))
        line.rstrip()
        yield line


def _spreads(stats: Stats) -> Table:
    table = _table(
        "", *("least" if p == 0 else "most" if p == 100 else f"{p} %" for p in PERCENTILES), "mean"
    )
    rows = [
        ("record", stats.record_seconds),
        ("clip", stats.clip_seconds if stats.clip_seconds != stats.record_seconds else None),
        ("text", stats.record_characters),
        *((visible(rate.language), rate.rates) for rate in stats.rates),
    ]
    for name, spread in rows:
        if spread is not None:
            table.add_row(Text(name), *map(format_value, (*spread.percentiles, spread.mean)))
    return table


def _groups(title: str, groups: Sequence[Subset], stats: Stats) -> Table:
    table = _table(title, "audio", "", "records", "", "characters")
    for group in groups:
        table.add_row(
            Text(visible(group.name)),
            hours(group.seconds),
            share(group.seconds, stats.seconds),
            f"{group.records:,}",
            share(group.records, stats.records),
            f"{group.characters:,}",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for number, column in enumerate(columns):
        if number:
            table.add_column(column, no_wrap=True, justify="right")
        else:
            table.add_column(column, overflow="fold")
    return table


def _print_table(console: Console, table: Table) -> None:
    """Print a table whole: a label is broken only where it is long, and a figure never."""
    wide = console.options.update(width=_WIDEST)
    if Measurement.get(console, wide, table).maximum > console.width:
        label = table.columns[0]
        label.max_width = 1
        rest = Measurement.get(console, wide, table).maximum - 1
        label.max_width = max(LABEL, console.width - rest)
        table.width = Measurement.get(console, wide, table).maximum
    console.print(table, soft_wrap=True)


def _print_suspects(console: Console, stats: Stats) -> None:
    say = partial(_say, console)
    for reason, field in ((TOO_MUCH, "too_much"), (TOO_LITTLE, "too_little")):
        suspects = [suspect for suspect in stats.suspects if suspect.reason == reason]
        if not suspects:
            continue
        count = sum(getattr(rate, field) for rate in stats.rates)
        say(f"{reason[0].upper()}{reason[1:]}", "bold")
        say(f"{counted(count, 'record')}; the farthest {len(suspects)}:")
        for suspect in suspects:
            figures = (
                f"  {format_value(suspect.rate)} characters/s, usual in {suspect.language}: "
                f"{format_value(suspect.usual)} ({suspect.seconds:.2f} s, "
                f"characters: {suspect.characters:,}, {suspect.deviation:+.1f} deviations)"
            )
            say(visible(figures))
            say(f"    {visible(suspect.where)}", "dim")
            say(f"    {visible(shortened(' / '.join(suspect.texts), TEXT))}")
        console.print()
