"""What datasets hold, as one HTML file that needs no network, no other file and no script."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from kikimimi.console.terminal import visible
from kikimimi.console.words import counted, format_value, hours, share, size
from kikimimi.inspect.distribution import PERCENTILES, Distribution
from kikimimi.inspect.stats import Stats
from kikimimi.inspect.stats_text import LEFT_OUT
from kikimimi.report.charts import Chart, bar, histogram
from kikimimi.report.page import fill_page


def render_stats(stats: Sequence[Stats]) -> str:
    """Return the page of datasets."""
    return fill_page(
        "stats.html.j2",
        datetime.now().astimezone(),
        title=stats[0].name if len(stats) == 1 else counted(len(stats), "dataset"),
        stats=stats,
        charts=lambda item: list(_charts(item)),
        spreads=lambda item: list(_spreads(item)),
        heads=["least", *(f"{p} %" for p in PERCENTILES[1:-1]), "most"],
        bar=lambda part, whole: bar({"part": part}, whole),
        hours=hours,
        counted=counted,
        share=share,
        size=size,
        number=format_value,
        visible=visible,
        shown_left_out=LEFT_OUT,
    )


def _charts(stats: Stats) -> Iterator[Chart]:
    for name, spread in _spreads(stats):
        of = "clip" if name.endswith("clip") else "record"
        if of == "record" or spread != stats.record_seconds:
            yield histogram(spread, title=name[0].upper() + name[1:], of=of)


def _spreads(stats: Stats) -> Iterator[tuple[str, Distribution]]:
    for name, spread in (
        ("audio of a record", stats.record_seconds),
        ("audio of a clip", stats.clip_seconds),
        ("text of a record", stats.record_characters),
        *((f"text beside a second of audio: {rate.language}", rate.rates) for rate in stats.rates),
    ):
        if spread is not None:
            yield name, spread
