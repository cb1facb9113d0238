from __future__ import annotations

import dataclasses
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from kikimimi.console.words import format_value, hours, size
from kikimimi.data.shards.index import LeftOut
from kikimimi.inspect.distribution import distribution
from kikimimi.inspect.stats import TOO_LITTLE, TOO_MUCH, Rate, Stats, Subset, Suspect
from kikimimi.inspect.stats_text import print_stats
from kikimimi.report.page import save_page
from kikimimi.report.stats_page import render_stats


def suspect(reason: str, text: str, deviation: float) -> Suspect:
    return Suspect("a.tar, byte 0, record 'k'", "ja", 1.5, 60, 40.0, 7.0, deviation, reason, (text,))


@pytest.fixture
def stats() -> Stats:
    rates = distribution(np.linspace(5, 9, 50), "characters/s")
    few = distribution(np.array([10.0, 11.0]), "characters/s")
    assert rates is not None
    assert few is not None
    return Stats(
        name="<speech>",
        shards=3,
        bytes=1_234_000_000,
        records=1052,
        clips=1062,
        seconds=7200.0,
        characters=54_321,
        clips_per_record={0: 10, 1: 1022, 2: 20},
        record_seconds=distribution(np.linspace(1, 12, 1042), "s"),
        clip_seconds=distribution(np.linspace(1, 12, 1062), "s"),
        record_characters=distribution(np.arange(1052), "characters", whole=True),
        languages=(Subset("ja", 1000, 5400.0, 50_000), Subset("[b]", 52, 1800.0, 4_321)),
        licenses=(Subset("unknown", 1052, 7200.0, 54_321),),
        rates=(Rate("ja", rates, 3.5, 14.0, 2, 11), Rate("[b]", few, None, None, 0, 0)),
        suspects=(
            suspect(TOO_MUCH, "<b>長い\x1b</b>" + "あ" * 300, 9.0),
            suspect(TOO_LITTLE, "短い", -8.0),
        ),
        left_out=tuple(LeftOut(f"a.tar, byte {n}", "empty text" if n else "malformed") for n in range(25)),
    )


def printed(*stats: Stats) -> str:
    console = Console(file=io.StringIO(), width=100)
    print_stats(console, stats)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_page_needs_nothing_else(stats: Stats, tmp_path: Path) -> None:
    path = tmp_path / "new" / "stats.html"
    save_page(path, render_stats([stats]))
    html = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in html
    assert not re.search(r"<script|https?://|@import|url\(", html)
    assert "prefers-color-scheme: dark" in html
    assert "<title>&lt;speech&gt;</title>" in html
    assert "Overview" not in html


def test_the_page_holds_the_figures(stats: Stats) -> None:
    html = render_stats([stats])
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", html))
    for figures in (
        "Audio 2.0 h Records 1,052 Clips 1,062 Characters 54,321",
        "Size, 3 shards 1.23 GB Left out of the index 25",
        "ja 1.5 h 75.0 % 1,000 95.1 % 50,000",
        "unknown 2.0 h 100.0 % 1,052 100.0 % 54,321",
        "0 (text only) 10 1.0 % 1 1,022 97.1 % 2 20 1.9 %",
        "ja: usual are 7 characters per second; 11 of 50 records have more than 14, 2 fewer than 3.5.",
        "[b]: 2 records with audio and text, too few to tell what is usual.",
        "40 characters per second, usual in ja: 7 &middot; 60 characters",
        "60 characters &middot; 1.50 s &middot; +9.0 deviations",
        "&lt;b&gt;長い\\x1b&lt;/b&gt;" + "あ" * 300,
        "empty text 24 malformed 1",
        "The first 20",
    ):
        assert figures in text
    assert text.index("Too much text") < text.index("Too little text")
    assert html.count('<svg class="chart"') == 5
    assert '<p class="text" lang="ja">短い</p>' in html


def test_of_several_datasets_there_is_a_sum(stats: Stats) -> None:
    other = replace(stats, name="other", seconds=600.0, left_out=(), suspects=())
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", render_stats([stats, other])))
    assert "2 datasets" in text
    assert "other 10:00 1,052 1,062 54,321 1.23 GB total 2.2 h 2,104 2,124 108,642 2.47 GB" in text
    lines = [line.split() for line in printed(stats, other).splitlines()]
    assert ["total", "2.2", "h", "2,104", "2,124", "108,642", "2.47", "GB"] in lines


def test_on_the_terminal(stats: Stats) -> None:
    text = printed(stats)
    for line in (
        "2.0 h of audio, 1,052 records, 1,062 clips, 54,321 characters, 1.23 GB in 3 shards",
        "clips per record: 10 text only, 1,022 1 clip, 20 2 clips",
        "Audio of a clip [s]",
        "11 records; the farthest 1:",
        "  40 characters/s, usual in ja: 7 (1.50 s, characters: 60, +9.0 deviations)",
        "    <b>長い\\x1b</b>" + "あ" * 190 + " ... (110 more characters)",
        "Left out of the index: 25 records",
        "  24  empty text",
        "    and 5 more; --json lists all",
    ):
        assert line in text.splitlines()
    rows = [line.split() for line in text.splitlines()]
    # A name that looks like markup is a name.
    assert ["[b]", "30:00", "25.0", "%", "52", "4.9", "%", "4,321"] in rows
    assert "\x1b" not in text


def test_at_80_columns_a_label_and_its_figures_stand_on_one_line(stats: Stats) -> None:
    many = distribution(np.arange(1052) * 97, "characters", whole=True)
    assert many is not None
    rate = replace(stats.rates[0], language="japanese")
    long = replace(
        stats,
        name="corpora/of/speech/" + "japanese_" * 8,
        record_characters=many,
        rates=(rate,),
        licenses=(Subset("CC-BY-NC-SA-4.0", 1052, 7200.0, 54_321),),
    )
    console = Console(file=io.StringIO(), width=80)
    print_stats(console, [long, replace(long, name="b")])
    assert isinstance(console.file, io.StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    figures = [*rate.rates.percentiles, rate.rates.mean]
    assert ["japanese", *map(format_value, figures)] in lines
    assert ["text", *map(format_value, [*many.percentiles, many.mean])] in lines
    assert ["CC-BY-NC-SA-4.0", "2.0", "h", "100.0", "%", "1,052", "100.0", "%", "54,321"] in lines
    assert ["b", "2.0", "h", "1,052", "1,062", "54,321", "1.23", "GB"] in lines
    assert "\u2026" not in console.file.getvalue()


def test_one_of_each_is_said_in_the_singular(stats: Stats) -> None:
    one = replace(stats, shards=1, records=1, clips=1, characters=1, left_out=stats.left_out[:1])
    text = printed(one)
    assert "2.0 h of audio, 1 record, 1 clip, 1 character, 1.23 GB in 1 shard\n" in text
    assert "Left out of the index: 1 record\n" in text


def test_bars_are_as_long_as_counts(stats: Stats) -> None:
    spread = distribution(np.array([1] * 16 + [2] * 8 + [3] * 1 + [5] * 1), "s", whole=True)
    lines = printed(replace(stats, record_seconds=spread)).splitlines()
    start = lines.index("Audio of a record [s]") + 1
    bars = [
        line.split("  ")[-1] if line.split("  ")[-1].strip("\u2588\u258c ") == "" else ""
        for line in lines[start : start + 5]
    ]
    assert bars == ["\u2588" * 40, "\u2588" * 20, "\u2588\u2588\u258c", "", "\u2588\u2588\u258c"]


def test_text_alone(stats: Stats) -> None:
    alone = replace(
        stats,
        clips=0,
        seconds=0.0,
        record_seconds=None,
        clip_seconds=None,
        rates=(),
        suspects=(),
        clips_per_record={0: 1052},
    )
    assert "No record has both audio and text." in render_stats([alone])
    text = printed(alone)
    assert "Audio of a record" not in text
    assert "clips per record: 1,052 text only" in text


def test_lengths_and_sizes() -> None:
    assert [hours(seconds) for seconds in (0, 59.6, 3599, 3600, 3_600_000)] == [
        "0:00",
        "1:00",
        "59:59",
        "1.0 h",
        "1,000.0 h",
    ]
    assert [size(count) for count in (999, 1500, 2.5e9, 3.14e12)] == ["999 B", "1.5 kB", "2.5 GB", "3.1 TB"]


def test_names_and_texts_of_strangers_are_shown_harmless(stats: Stats) -> None:
    name = "<script>\x00\x1b[31m\x9b\u202e\ufffe]]></script>"
    html = render_stats([dataclasses.replace(stats, name=name)])
    assert not set(re.findall(r"[^\n]", html)) & set("\x00\x1b\x9b\u202e\ufffe")
    assert "&lt;script&gt;\\x00\\x1b[31m\\x9b\\u202e\\ufffe]]&gt;&lt;/script&gt;" in html
