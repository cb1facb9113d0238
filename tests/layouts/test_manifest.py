from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kikimimi.contracts.layout import BadRow, Row, Segment
from kikimimi.data.audio import encode_audio
from kikimimi.data.packing.row import Dropped, PackSettings, pack_row
from kikimimi.errors import DataError, RequestError
from kikimimi_layouts.hugging_face import HuggingFace
from kikimimi_layouts.manifest import Manifest


def all_rows(file: Path, /, **options: Any) -> list[Row | BadRow]:
    layout = Manifest(str(file), Manifest.Config(**options))
    found = list(layout.rows(0, len(layout)))
    assert len(found) == len(layout)
    return found


def rows(file: Path, /, **options: Any) -> list[Row]:
    found = all_rows(file, **options)
    good = [row for row in found if isinstance(row, Row)]
    assert len(good) == len(found)
    return good


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", 'path,text,language,speaker\na.wav,"こん,にちは",ja,1\nb.wav,,,2\n'),
        ("m.tsv", "path\ttext\tlanguage\tspeaker\na.wav\tこん,にちは\tja\t1\nb.wav\t\t\t2\n"),
        (
            "m.jsonl",
            '{"path": "a.wav", "text": "こん,にちは", "language": "ja", "speaker": "1"}\n'
            '{"path": "b.wav", "text": null, "meta": {"speaker": "2"}}\n',
        ),
    ],
)
def test_labelled_clips(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert rows(tmp_path / name) == [
        Row(
            "a.wav",
            {"text": "こん,にちは", "language": "ja", "meta": {"speaker": "1"}},
            (tmp_path / "a.wav",),
        ),
        Row("b.wav", {"text": "", "language": None, "meta": {"speaker": "2"}}, (tmp_path / "b.wav",)),
    ]


@pytest.mark.fault("Rows: a bad one among good ones", "left out and counted; `bad_rows=fail` stops at it")
@pytest.mark.parametrize(
    "labels",
    [{"emotion": "joy"}, {"translation": {"en": "x"}}, {"captions": ["rain"]}, {"answer": "x"}],
)
def test_a_clip_without_a_transcript_is_learnt_by_its_labels(tmp_path: Path, labels: dict[str, Any]) -> None:
    lines = [
        {"path": "a.wav", "text": None, "meta": labels},
        {"path": "a.wav", "text": None, **labels},
        {"path": "a.wav", "text": None, "meta": dict.fromkeys(labels), "speaker": "1"},
        {"path": "a.wav", "text": "", "meta": labels},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tone = np.full(8000, 0.1, np.float32)
    (tmp_path / "a.wav").write_bytes(encode_audio(tone, 16_000, kind="WAV", subtype="PCM_16"))
    found = rows(tmp_path / "m.jsonl")
    labelled = {"language": None, "meta": labels}
    assert [row.record for row in found[:2]] == [labelled, labelled]
    packed = [pack_row(row, 0, PackSettings()) for row in found]
    kept = [json.loads(row.members["json"]) for row in packed if not isinstance(row, Dropped)]
    assert kept == [labelled, labelled]
    assert [row.reason for row in packed if isinstance(row, Dropped)] == ["empty text", "empty text"]


def test_columns_and_constants(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("audio_file,sentence,locale,terms\n/a.wav,x,,CC0-1.0\n")
    found = rows(
        tmp_path / "m.csv",
        path="audio_file",
        text="sentence",
        language_column="locale",
        license_column="terms",
        language="ja",
        license="CC0-1.0",
    )
    expected = {"text": "x", "language": "ja", "meta": {"license": "CC0-1.0"}}
    assert found == [Row("/a.wav", expected, (Path("/a.wav"),))]


def test_conversations(tmp_path: Path) -> None:
    line = {
        "messages": [
            {"role": "system", "content": "s"},
            {
                "role": "user",
                "content": [
                    {"type": "audio", "audio": "c/2.wav", "text": "二"},
                    {"type": "audio", "audio": "c/1.wav"},
                    {"type": "audio", "audio": "c/2.wav"},
                ],
            },
            {"role": "assistant", "content": "a"},
        ],
        "rejected": "b",
        "meta": {"license": "CC-BY-4.0"},
        "topic": "t",
    }
    text_only = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    clip = {"path": "a.wav", "text": "x"}
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in (line, text_only, clip)))
    first, second, third = rows(path, language="ja")
    assert first.name == "c/2.wav"
    assert first.clips == (tmp_path / "c/2.wav", tmp_path / "c/1.wav")
    parts = first.record["messages"][1]["content"]
    assert [part["audio"] for part in parts] == ["0", "1", "0"]
    assert parts[0]["text"] == "二"
    assert first.record["rejected"] == "b"
    assert first.record["meta"] == {"license": "CC-BY-4.0", "topic": "t", "language": "ja"}
    assert second == Row(f"{path}:2", {**text_only, "meta": {"language": "ja"}}, ())
    assert third.record == {"text": "x", "language": "ja", "meta": {}}


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(RequestError, match=r"holds no manifest; looked for one of \.csv, .*metadata\.csv"):
        rows(tmp_path)
    (tmp_path / "train.csv").write_text("path,text\na.wav,x\n")
    assert Manifest.matches(tmp_path)
    assert rows(tmp_path)[0].clips == (tmp_path / "a.wav",)
    (tmp_path / "test.tsv").write_text("path\ttext\nb.wav\tx\n")
    assert not Manifest.matches(tmp_path)
    with pytest.raises(RequestError, match=r"holds 2 manifests: test\.tsv, train\.csv; name the one"):
        rows(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"path": "c.wav", "text": "x"}\n')
    assert Manifest.matches(tmp_path)
    assert [row.name for row in rows(tmp_path)] == ["c.wav"]
    with pytest.raises(RequestError, match="gone: no such manifest"):
        rows(tmp_path / "gone")


def test_a_table_of_something_else_is_not_taken_for_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "all.tsv").write_text("000/a.flac\tテスト\n", encoding="utf-8")
    assert not Manifest.matches(tmp_path)
    assert Manifest.matches(tmp_path / "all.tsv")
    assert not Manifest.matches(tmp_path / "gone.tsv")


@pytest.mark.parametrize(
    ("name", "line", "error", "message"),
    [
        (
            "m.csv",
            "path,txt\na.wav,x\n",
            RequestError,
            r"m\.csv:2: no column 'text'\. Did you mean 'txt'\? Columns: path, txt.* text=COLUMN",
        ),
        (
            "m.csv",
            "path,text\n,x\n",
            DataError,
            r"m\.csv:2: path: expected the name of an audio file, not ''",
        ),
        ("m.jsonl", '{"path": "a", "text": 3}\n', DataError, r"m\.jsonl:1: text: expected a text, not 3"),
        (
            "m.jsonl",
            '{"path": "a", "text": "", "license": 3}',
            DataError,
            r"m\.jsonl:1: license: expected a text",
        ),
        (
            "m.jsonl",
            '{"path": "a.wav", "text": "x", "audios": ["b.wav"]}',
            DataError,
            r"m\.jsonl:1: audios: names clips beside path, but a transcript is of one",
        ),
        (
            "m.jsonl",
            '{"messages": []}\n',
            DataError,
            r"m\.jsonl:1: messages: expected a list of at least one",
        ),
        (
            "m.jsonl",
            '{"path": "a", "text": "b", "x": 1, "meta": {"x": 2}}',
            DataError,
            r"m\.jsonl:1: x: stands both beside meta and in it, and differs",
        ),
        (
            "m.csv",
            "path,text,language\na.wav,x,en\n",
            DataError,
            r"m\.csv:2: language: is 'en' here, but language=ja says that of every row",
        ),
    ],
)
def test_refuses(tmp_path: Path, name: str, line: str, error: type[Exception], message: str) -> None:
    (tmp_path / name).write_text(line)
    with pytest.raises(error, match=message):
        rows(tmp_path / name, language="ja")


def test_refuses_options() -> None:
    with pytest.raises(ValueError, match="four different columns, not 'a', 'a', 'language'"):
        Manifest.Config(path="a", text="a")
    with pytest.raises(ValueError, match="license: must not be blank; null is allowed"):
        Manifest.Config(license="")
    with pytest.raises(ValueError, match="text: must not be blank"):
        Manifest.Config(text="")


def test_fingerprint_follows_files_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("path,text\na.wav,x\nb.wav,y\n")
    before = [Manifest(str(path), Manifest.Config()).fingerprint(i, i + 1) for i in range(2)]
    (tmp_path / "a.wav").write_bytes(b"1")
    after = [Manifest(str(path), Manifest.Config()).fingerprint(i, i + 1) for i in range(2)]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_bad_rows_end_no_manifest(tmp_path: Path) -> None:
    lines = [
        '{"path": "a.wav", "text": "x"}',
        '{"path": "a.wav", "text": 3}',
        '{"path": 7, "text": "x"}',
        '{"text": "x"}',
        '{"path": "a.wav", "text": "x", "language": 5}',
        '{"path": "a.wav", "text": "x", "language": "en"}',
        "{",
        "[1]",
        '{"messages": []}',
        '{"path": "a.wav", "text": "x", "start": 1}',
        '{"path": "b.wav", "text": "y", "meta": 5}',
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(lines))
    first, *bad, last = all_rows(path, language="ja")
    assert isinstance(first, Row)
    assert isinstance(last, Row)
    assert (first.name, last.name, last.record["meta"]) == ("a.wav", "b.wav", {"meta": 5})
    reasons = []
    for number, row in enumerate(bad, 2):
        assert isinstance(row, BadRow)
        assert row.name == f"{path}:{number}"
        assert row.reason.startswith(f"{row.name}: ")
        reasons.append(row.reason.removeprefix(f"{row.name}: "))
    for reason, said in zip(
        reasons,
        [
            "text: expected a text, not 3",
            "path: expected the name of an audio file, not 7",
            "no column 'path'.",
            "language: expected a text, not 5",
            "language: is 'en' here, but language=ja says that of every row",
            "not JSON: ",
            "expected a mapping, not list",
            "messages: ",
            "the segment begins at 1 s, but nothing says where it ends. If files are whole clips: segm",
        ],
        strict=True,
    ):
        assert said in reason
    layout = Manifest(str(path), Manifest.Config(language="ja"))
    assert [next(iter(layout.rows(number, number + 1))) for number in range(len(layout))] == [
        first,
        *bad,
        last,
    ]


def test_where_every_row_is_bad_what_is_asked_wrong_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"path": 3, "text": "x"}\n{"audio": "a.wav", "text": "x"}\n')
    with pytest.raises(RequestError, match=r"m\.jsonl:2: no column 'path'"):
        rows(path)
    path.write_text('{"path": 3, "text": "x"}\n[]\n')
    with pytest.raises(DataError, match=r"m\.jsonl:1: path: expected the name of an audio file, not 3"):
        rows(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "m.jsonl",
            '{"path": "long.wav", "text": "1", "offset": 0, "duration": 2}\n'
            '{"path": "long.wav", "text": "2", "offset": 2.0, "duration": 2.5, "channel": 1}\n'
            '{"path": "whole.wav", "text": "3"}\n',
        ),
        ("m.csv", "path,text,start,end,channel\nlong.wav,1,0,2,\nlong.wav,2,2.0,4.5,1\nwhole.wav,3,,,\n"),
    ],
)
def test_segments(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    found = rows(tmp_path / name)
    long = tmp_path / "long.wav"
    assert [row.clips for row in found] == [
        (Segment(long, 0.0, 2.0),),
        (Segment(long, 2.0, 2.5, 1),),
        (tmp_path / "whole.wav",),
    ]
    assert [row.name for row in found] == [
        "long.wav [0.00-2.00 s]",
        "long.wav [2.00-4.50 s, channel 1]",
        "whole.wav",
    ]
    assert [row.clips for row in rows(tmp_path / name, segments="ignore")] == [
        (long,),
        (long,),
        (tmp_path / "whole.wav",),
    ]


def test_what_may_tell_of_a_segment_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("path,text,from,to\na.wav,x,1,3\n")
    with pytest.raises(DataError, match=r"m\.csv:2: from and to: may tell which part.* say start=COLUMN"):
        rows(path)
    (row,) = rows(path, segments="ignore")
    assert row.clips == (tmp_path / "a.wav",)
    (row,) = rows(path, start="from", end="to")
    assert row.clips == (Segment(tmp_path / "a.wav", 1.0, 2.0),)


def test_columns_of_segments_are_chosen(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("path,text,von,bis,duration\na.wav,x,1,3,60\nb.wav,x,,,60\n")
    a, b = rows(path, start="von", end="bis")
    assert a.clips == (Segment(tmp_path / "a.wav", 1.0, 2.0),)
    assert b.clips == (tmp_path / "b.wav",)
    assert a.record["meta"] == {"von": "1", "bis": "3", "duration": "60"}
    with pytest.raises(
        RequestError, match=r"no column 'vom'\. Did you mean 'von'\?.* chosen with start=COLUMN"
    ):
        rows(path, start="vom", end="bis")
    with pytest.raises(ValueError, match="segments: ignores von, bis: leave one of the two out"):
        Manifest.Config(segments="ignore", start="von", end="bis")


def test_capitals_and_files_that_macos_adds(tmp_path: Path) -> None:
    (tmp_path / "LIST.CSV").write_text("path,text\na.wav,x\n")
    (tmp_path / "._LIST.CSV").write_bytes(b"\0\5\26\7\xff")
    (tmp_path / "._list.csv").write_bytes(b"\0\5\26\7\xff")
    (tmp_path / "._old.parquet").write_bytes(b"\0\5\26\7\xff")
    assert Manifest.matches(tmp_path)
    assert not HuggingFace.matches(tmp_path)
    assert [row.name for row in rows(tmp_path)] == ["a.wav"]
    (tmp_path / "m.JSONL").write_text('{"messages": [{"role": "user", "content": "q"}]}\n')
    assert rows(tmp_path / "m.JSONL")[0].clips == ()


def test_nothing_is_known_where_pandas_writes_nan(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(
        '{"path": "a.wav", "text": "x", "language": NaN, "license": NaN, "snr": NaN, "duration": NaN}'
    )
    (row,) = rows(path, language="ja")
    assert row.record["language"] == "ja"
    assert "license" not in row.record["meta"]
    assert row.clips == (tmp_path / "a.wav",)
