"""Packing through a layout of its own: conversations, options, how layouts are found, what they do wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import soundfile

from kikimimi.contracts import registry
from kikimimi.data.packing.pack import pack
from kikimimi.data.packing.source import PackSource
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import DataError, RequestError

Tone = Callable[..., bytes]

LAYOUT = '''
import json
from dataclasses import dataclass
from pathlib import Path
from kikimimi.contracts.layout import Layout, LayoutConfig, Row

@dataclass(kw_only=True, frozen=True)
class RowsConfig(LayoutConfig):
    count: int | None = None
    """How many rows it says it has."""
    kind: str = "a"
    """Anything."""
    def __post_init__(self):
        if self.kind == "c":
            raise ValueError("kind: must not be c")

class Rows(Layout):
    Config = RowsConfig
    def __init__(self, path, config):
        super().__init__(path, config)
        self.data = json.loads(Path(path).read_text())
    @classmethod
    def matches(cls, path):
        return path.suffix == ".rows"
    def __len__(self):
        return len(self.data) if self.config.count is None else self.config.count
    def rows(self, begin, end):
        for name, record, clips in self.data[begin:end]:
            files = tuple(bytes.fromhex(clip[1:]) if clip.startswith("#") else Path(clip) for clip in clips)
            if record == "nan":
                record = {"text": "x", "at": float("nan")}
            yield Row(name, record, files)

class Greedy(Rows):
    def rows(self, begin, end):
        yield from super().rows(begin, end + 5)
'''


class Install(Protocol):
    def __call__(self, name: str, entry_points: Any, modules: Any) -> Path: ...


@pytest.fixture(autouse=True)
def layout(install: Install) -> None:
    entries = {"rows": "rows_layout:Rows"}
    install("rows-layout", {"kikimimi.layouts": entries}, {"rows_layout": LAYOUT})


Corpus = Callable[..., Path]


@pytest.fixture
def corpus(tmp_path: Path, tone: Tone) -> Corpus:
    for seconds in (1, 2):
        (tmp_path / f"{seconds}.wav").write_bytes(tone(seconds))

    def write(*rows: tuple[Any, list[str]]) -> Path:
        path = tmp_path / "all.rows"
        data = [
            [f"row{number}", record, [clip if clip[0] == "#" else str(tmp_path / clip) for clip in clips]]
            for number, (record, clips) in enumerate(rows)
        ]
        path.write_text(json.dumps(data))
        return path

    return write


def turns(*clips: str, **rest: Any) -> dict[str, Any]:
    parts = [{"type": "audio", "audio": clip, "text": "said"} for clip in clips]
    user = [*parts, {"type": "text", "text": "what?"}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}
    return {"messages": [{"role": "user", "content": user}, answer], **rest}


def reasons(out: Path) -> list[tuple[str, str]]:
    lines = (out / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    return [(drop["reason"], drop["detail"]) for drop in map(json.loads, lines)]


def test_conversations(corpus: Corpus, tmp_path: Path, tone: Tone) -> None:
    source = corpus(
        (turns("1", "0", "1", rejected="no", meta={"license": "CC0-1.0"}), ["1.wav", "2.wav"]),
        ({"messages": [{"role": "user", "content": "hi"}], "chosen": "yes", "rejected": "no"}, []),
        (turns("0"), ["#" + tone(0.5).hex()]),
    )
    report = pack(source, tmp_path / "out")
    assert report.records == 3
    shards = Shards("d", report.pattern)
    first, second, third = (shards.read(row) for row in range(3))
    assert list(first.audio) == ["0.flac", "1.flac"]
    parts = first.json["messages"][0]["content"]
    assert [part.get("audio") for part in parts] == ["1.flac", "0.flac", "1.flac", None]
    assert parts[0]["text"] == "said"
    assert first.json["rejected"] == "no"
    assert first.json["meta"] == {"license": "CC0-1.0"}
    assert (second.json["chosen"], second.json["rejected"], second.audio) == ("yes", "no", {})
    assert list(third.audio) == ["0.flac"]
    assert shards.seconds.tolist() == [3.0, 0.0, 0.5]


def test_no_mark_of_a_clip_is_packed_as_text(corpus: Corpus, tmp_path: Path) -> None:
    asked = {"role": "user", "content": "<audio>q"}
    source = corpus(
        ({"messages": [asked]}, []),
        (turns("0", rejected="<|AUDIO|>"), ["1.wav"]),
        ({"messages": [{"role": "user", "content": "q"}], "audios": ["1.wav"]}, []),
        (turns("0"), ["1.wav"]),
    )
    assert pack(source, tmp_path / "out").records == 1
    found = reasons(tmp_path / "out")
    assert [reason for reason, _ in found] == ["malformed"] * 3
    assert "'<audio>' in a text stands for a clip in many tools" in found[0][1]
    assert "'<|AUDIO|>' in a text" in found[1][1]
    assert "audios: names clips beside the turns" in found[2][1]


def test_a_bad_clip_leaves_out_the_whole_conversation(corpus: Corpus, tmp_path: Path) -> None:
    source = corpus(
        (turns("0", "1"), ["1.wav", "gone.wav"]),
        (turns("0", "1"), ["1.wav", "#00"]),
        (turns("0", "1"), ["1.wav", "2.wav"]),
        (turns("0"), ["1.wav"]),
    )
    report = pack(source, tmp_path / "out", max_seconds=1.5)
    assert report.records == 1
    assert [reason for reason, _ in reasons(tmp_path / "out")] == [
        "missing file",
        "undecodable audio",
        "too long",
    ]
    assert "row1, clip 1: cannot be decoded" in reasons(tmp_path / "out")[1][1]
    assert report.dropped()["too long"]["seconds"] == 3.0


def test_channels_that_cancel_have_a_name_of_their_own(corpus: Corpus, tmp_path: Path) -> None:
    file = io.BytesIO()
    left = 0.3 * np.sin(np.arange(16_000) / 8)
    soundfile.write(file, np.stack([left, -left], axis=1), 16_000, format="WAV")
    report = pack(
        corpus((turns("0"), ["#" + file.getvalue().hex()]), (turns("0"), ["1.wav"])), tmp_path / "out"
    )
    assert report.records == 1
    ((reason, detail),) = reasons(tmp_path / "out")
    assert reason == "channels that cancel one another"
    assert "its 2 channels cancel one another, and their average is silence" in detail


def test_what_could_not_be_read_is_not_packed(corpus: Corpus, tmp_path: Path) -> None:
    source = corpus(
        (turns("0"), ["1.wav", "2.wav"]),
        (turns("0", "1"), ["1.wav"]),
        (turns("0.flac"), ["1.wav"]),
        ({"messages": []}, []),
        ({"messages": 3}, []),
        ({"messages": [{"role": "robot", "content": "hi"}]}, []),
        ({"messages": [{"role": "user", "content": [{"type": "audio", "audio": 0}]}]}, ["1.wav"]),
        ({"text": 3}, ["1.wav"]),
        ({"text": "x"}, []),
        ("nan", ["1.wav"]),
        ({"text": "\ud800"}, ["1.wav"]),
        ({"text": None}, ["1.wav"]),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]}, []),
        ({"text": "good", "language": None}, ["1.wav"]),
    )
    report = pack(source, tmp_path / "out", records_per_shard=5)
    found = reasons(tmp_path / "out")
    assert [reason for reason, _ in found] == [*["malformed"] * 11, *["empty text"] * 2]
    for (_, detail), said in zip(
        found,
        [
            "row0: no turn of the conversation holds the clip 1.flac",
            "row1: the conversation names the clip '1', but the row has 0",
            "row2: the conversation names the clip '0.flac', but the row has 0",
            "row3: messages: expected a list of at least one turn",
            "row4: messages: expected a list of at least one turn",
            "row5: messages[0].role: 'robot' is not one of",
            "row6: messages[0].content[0].audio: expected a text",
            "row7: text: ",
            "row8: the labelled clip has no audio",
            "row9: cannot be written as JSON: Out of range float values",
            "row10: cannot be written as JSON: 'utf-8' codec can't encode",
            "row11: has no transcript",
            "row12: its last answer is empty",
        ],
        strict=True,
    ):
        assert said in detail
    assert report.records == 1


@pytest.mark.parametrize("language", ["japanese", "Japanese", "j", "ja_JP", "ja-", "日本", "ja jp", "1a"])
def test_a_language_that_is_no_code_is_not_packed(corpus: Corpus, tmp_path: Path, language: str) -> None:
    source = corpus(
        ({"text": "x", "language": language}, ["1.wav"]),
        ({"text": "x", "meta": {"language": language}}, ["1.wav"]),
        (turns("0", language=language), ["1.wav"]),
        (turns("0", meta={"language": language}), ["1.wav"]),
        ({"text": "x", "language": "ja"}, ["1.wav"]),
    )
    assert pack(source, tmp_path / "out").records == 1
    said = f"language {language!r} is no ISO 639 code such as 'ja'"
    assert reasons(tmp_path / "out") == [("malformed", f"row{row}: {said}") for row in range(4)]


def test_languages_are_codes_with_or_without_a_region(corpus: Corpus, tmp_path: Path) -> None:
    codes = ["ja", "EN", "yue", "zh-TW", "zh-Hant-TW", "es-419", None, ""]
    source = corpus(
        *(({"text": "x", "language": code}, ["1.wav"]) for code in codes),
        *((turns("0", meta={"language": code}), ["1.wav"]) for code in codes),
    )
    report = pack(source, tmp_path / "out")
    assert report.records == 2 * len(codes)
    assert set(Shards("d", report.pattern).language_names) == {code for code in codes if code}


def test_options_of_the_layout(corpus: Corpus, tmp_path: Path) -> None:
    source = corpus(({"text": "x"}, ["1.wav"]))
    opened = PackSource.open(source, options=["kind=2024", "count=1"])
    assert (opened.name, opened.config.kind, opened.config.count) == ("rows", "2024", 1)
    report = pack(opened, tmp_path / "out")
    assert report.records == 1
    assert json.loads((tmp_path / "out" / "ledger.json").read_text())["options"] == {
        "count": 1,
        "kind": "2024",
    }
    with pytest.raises(RequestError, match="a corpus that is opened has its layout and options"):
        pack(opened, tmp_path / "out", options=["kind=b"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["cuont=3"], r"options of layout 'rows':\n  cuont: layout 'rows' has no option 'cuont'\. "),
        (["cuont=3"], r"Did you mean 'count'\? Options: count, kind \(command line: cuont=3\)"),
        (["count=many"], r"count: expected a whole number or null, not 'many' \(command line: count=many\)"),
        (["kind=c"], r"kind: must not be c \(command line: kind=c\)"),
        (["count=x", "cuont=3"], r"(?s)count: expected.*cuont: layout"),
        (["count="], "count: nothing follows the '='"),
        (
            ["data.csv"],
            r"'data\.csv': expected an option of layout 'rows' as KEY=VALUE, after SOURCE and OUT",
        ),
        (["name=other"], "'name=other': expected an option of layout 'rows'"),
    ],
)
def test_refuses_options(corpus: Corpus, tmp_path: Path, options: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        pack(corpus(({"text": "x"}, ["1.wav"])), tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


def test_finds_the_layout(
    corpus: Corpus, tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = corpus(({"text": "x"}, ["1.wav"]))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # what lies beside the repository may have a name like those below
    assert PackSource.open(source).name == "rows"
    with pytest.raises(RequestError, match=r"al\.rows: no such file or folder\. Did you mean 'all\.rows'\?"):
        PackSource.open(tmp_path / "al.rows")
    with pytest.raises(
        RequestError,
        match=r"^someorg/someset: no such file or folder\. For a set on the Hub, add --layout hug",
    ):
        PackSource.open("someorg/someset")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"no such file or folder\.$"):
        PackSource.open("../someset")
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(
        RequestError, match=r"x\.bin: is laid out like none of .*manifest.*rows.*--layout NAME"
    ):
        PackSource.open(tmp_path / "x.bin")

    broken = {"kikimimi.layouts": {"broken": "broken_layout:Broken"}}
    install("broken-layout", broken, {"broken_layout": "raise RuntimeError('no')\n"})
    assert PackSource.open(source).name == "rows"  # one that nobody names stops nothing
    with pytest.raises(RequestError, match=r"Broken: broken \('kikimimi plugins --check' say.*\. Where"):
        PackSource.open(tmp_path / "x.bin")
    raising = (
        "from kikimimi import Layout\nclass L(Layout):\n    matches = staticmethod(lambda path: 1 / 0)\n"
    )
    install("raising", {"kikimimi.layouts": {"raising": "raising_layout:L"}}, {"raising_layout": raising})
    assert PackSource.open(source).name == "rows"
    with pytest.raises(RequestError, match=r"like none of [^.]*manifest[^.]*\. Broken: broken, raising \("):
        PackSource.open(tmp_path / "x.bin")

    twin = {"kikimimi.layouts": {"rows2": "rows_layout:Rows"}}
    install("twin-layout", twin, {})
    with pytest.raises(RequestError, match=r"could be read as 2 layouts: rows, rows2\. Choose with --layout"):
        PackSource.open(source)
    assert PackSource.open(source, "rows2").name == "rows2"
    assert pack(source, tmp_path / "out", layout="rows2").records == 1

    install("other-layout", {"kikimimi.layouts": {"rows2": "rows_layout:Rows"}}, {})
    with pytest.raises(RequestError, match=r"as 3 layouts: other-layout:rows2, rows, twin-layout:rows2\. Ch"):
        PackSource.open(source)
    assert PackSource.open(source, "Twin_Layout:rows2").name == "Twin_Layout:rows2"


def test_refuses_a_corpus_without_rows(corpus: Corpus) -> None:
    with pytest.raises(DataError, match=r"all\.rows: holds no rows \(read as layout 'rows'\)"):
        PackSource.open(corpus())


def test_refuses_more_shards_than_names(corpus: Corpus, tmp_path: Path) -> None:
    source = corpus(({"text": "x"}, ["1.wav"]))
    with pytest.raises(
        RequestError, match=r"25,000,000 rows make 2,500,000 shards of 10, but at most 1,000,0"
    ):
        pack(source, tmp_path / "out", options=["count=25000000"], records_per_shard=10)


def test_a_layout_that_gives_another_number_of_rows(corpus: Corpus, tmp_path: Path, install: Install) -> None:
    source = corpus(*[({"text": "x"}, ["1.wav"])] * 4)
    with pytest.raises(DataError, match="layout 'rows' gave 1 rows for 3 to 6, which are 3"):
        pack(source, tmp_path / "out", options=["count=6"], records_per_shard=3)
    install("greedy-layout", {"kikimimi.layouts": {"greedy": "rows_layout:Greedy"}}, {})
    registry.refresh()
    with pytest.raises(DataError, match="layout 'greedy' gave 4 rows for 0 to 2, which are 2"):
        pack(source, tmp_path / "out2", layout="greedy", records_per_shard=2)
    assert not list((tmp_path / "out2").glob("*.tar*"))
