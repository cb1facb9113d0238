from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kikimimi.contracts.layout import BadRow, Row, Segment
from kikimimi.data.packing.pack import pack
from kikimimi.data.packing.source import PackSource
from kikimimi.errors import DataError
from kikimimi_layouts.manifest import Manifest
from kikimimi_layouts.nemo import NeMo

pytestmark = pytest.mark.fault("Rows: NeMo's manifests", "read; tarred ones are refused")

Read = Callable[[NeMo], list[Row | BadRow]]
GOOD = {"audio_filepath": "z.wav", "duration": 1.0, "text": "good"}


def lines(folder: Path, *rows: dict[str, Any], name: str = "train.json") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def read_one(path: Path, read: Read, row: dict[str, Any], **options: Any) -> Row | BadRow:
    found = read(NeMo(str(lines(path, row, GOOD)), NeMo.Config(**options)))
    assert len(found) == 2
    return found[0]


@pytest.mark.parametrize("name", ["train.json", "train.jsonl", "train.json.gz"])
def test_utterances(tmp_path: Path, read: Read, name: str) -> None:
    path = lines(
        tmp_path,
        {"audio_filepath": "wavs/a.wav", "offset": 2.0, "duration": 1.5, "text": "x", "lang": "en_US"},
        {"audio_filepath": "/abs/b.wav", "duration": 3.0, "text": "y", "speaker": "s1", "pnc": "yes"},
        {"audio_filename": "c.wav", "duration": 3.0, "normalized_text": "z"},
        name=name,
    )
    assert NeMo.matches(path)
    assert not Manifest.matches(path)
    assert PackSource.open(path).name == "nemo"
    first, second, third = read(NeMo(str(path), NeMo.Config()))
    assert first == Row(
        "wavs/a.wav [2.00-3.50 s]",
        {"text": "x", "language": "en-US", "meta": {"offset": 2.0, "duration": 1.5}},
        (Segment(tmp_path / "wavs/a.wav", 2.0, 1.5),),
    )
    assert isinstance(second, Row)
    assert second.clips == (Segment(Path("/abs/b.wav"), 0.0, 3.0, slack=1.0),)
    assert second.record["meta"] == {"duration": 3.0, "speaker": "s1", "pnc": "yes"}
    assert isinstance(third, Row)
    assert third.record["text"] == "z"


def test_a_text_in_a_file(tmp_path: Path, read: Read) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    found = read_one(tmp_path, read, {"audio_filepath": "a.wav", "duration": 1, "text_filepath": "a.txt"})
    assert isinstance(found, Row)
    assert found.record["text"] == "onetwo"
    found = read_one(tmp_path, read, {"audio_filepath": "a.wav", "duration": 1, "text_filepath": "b.txt"})
    assert isinstance(found, BadRow)
    assert "text_filepath: no such file" in found.reason
    (tmp_path / "c.txt").write_bytes(b"\xff")
    found = read_one(tmp_path, read, {"audio_filepath": "a.wav", "duration": 1, "text_filepath": "c.txt"})
    assert isinstance(found, BadRow)
    assert "text_filepath: c.txt cannot be read" in found.reason


CANARY = {"audio_filepath": "a.wav", "duration": 1, "source_lang": "en", "pnc": "yes"}


@pytest.mark.parametrize(
    ("row", "record"),
    [
        ({"target_lang": "en", "taskname": "asr", "text": "x"}, {"text": "x"}),
        ({"target_lang": "en", "taskname": "asr", "answer": "x"}, {"text": "x"}),
        ({"target_lang": "en", "taskname": "asr", "text": "x", "answer": "na"}, {"text": "x"}),
        ({"target_lang": "en", "answer": "na"}, {"text": ""}),
        ({"target_lang": "de", "taskname": "ast", "text": "t"}, {"translation": {"de": "t"}}),
        (
            {"target_lang": "de", "text": "x", "answer": "t"},
            {"text": "x", "translation": {"de": "t"}},
        ),
        ({"context": "q?", "answer": "a"}, {"question": "q?", "answer": "a"}),
        (
            {"question": "q?", "answer": "a", "text": "x"},
            {"text": "x", "question": "q?", "answer": "a"},
        ),
    ],
)
def test_what_canary_and_speech_llms_are_trained_on(
    tmp_path: Path, read: Read, row: dict[str, Any], record: dict[str, Any]
) -> None:
    found = read_one(tmp_path, read, {**CANARY, **row})
    assert isinstance(found, Row)
    assert found.record["language"] == "en"
    labels = {**found.record, **found.record["meta"]}
    assert {
        name: labels[name] for name in ("text", "translation", "question", "answer") if name in labels
    } == record


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"shard_id": 3}, r"shard_id: its clip lies in audio_3\.tar, and tars of NeMo are not read"),
        ({"_skipme": True}, r"_skipme: marks it as one to pass over"),
        ({"audio_filepath": ["a.wav", "b.wav"]}, r"audio_filepath: expected the name of an audio file"),
        ({"duration": -1}, r"the segment is -1 s long"),
        ({"offset": "x"}, r"offset: 'x' is no number of seconds"),
    ],
)
def test_bad_rows(tmp_path: Path, read: Read, row: dict[str, Any], message: str) -> None:
    found = read_one(tmp_path, read, {"audio_filepath": "a.wav", "duration": 1, "text": "x", **row})
    assert isinstance(found, BadRow)
    with pytest.raises(DataError, match=message):
        raise DataError(found.reason)


def test_conversations(tmp_path: Path, read: Read) -> None:
    turns = [
        {"from": "User", "value": "What is it?", "type": "text"},
        {"from": "User", "value": "a.wav", "type": "audio", "duration": 1.0, "offset": 2.0},
        {"from": "Assistant", "value": "Glass.", "type": "text"},
    ]
    beside = {"messages": [{"role": "user", "content": "<audio>q"}], "audio_filepath": "b.wav"}
    path = lines(tmp_path, {"id": "x", "conversations": turns}, beside)
    assert PackSource.open(path).name == "manifest"
    for layout in (Manifest(str(path), Manifest.Config()), NeMo(str(path), NeMo.Config())):
        first, second = layout.rows(0, 2)
        assert isinstance(first, Row)
        assert first.clips == (Segment(tmp_path / "a.wav", 2.0, 1.0),)
        assert first.record["messages"] == [
            {
                "role": "user",
                "content": [{"type": "text", "text": "What is it?"}, {"type": "audio", "audio": "0"}],
            },
            {"role": "assistant", "content": "Glass."},
        ]
        assert isinstance(second, Row)
        assert second.clips == (tmp_path / "b.wav",)


def test_a_home_folder(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for said, file in (
        ("~/a.wav", Path("/home/me/a.wav")),
        ("~nobody-here/a.wav", tmp_path / "~nobody-here/a.wav"),
    ):
        found = read_one(tmp_path, read, {"audio_filepath": said, "text": "x"})
        assert isinstance(found, Row)
        assert found.clips == (file,)


def test_packed(write: Callable[..., Path], tmp_path: Path) -> None:
    row = {"audio_filepath": "a.wav", "source_lang": "en", "target_lang": "de", "text": "t"}
    rows = [
        {**row, "offset": 0.05, "duration": 0.1},
        {"audio_filepath": "a.wav", "duration": 0.2, "text": "x"},
        {"audio_filepath": "a.wav", "duration": 9, "text": "too long"},
    ]
    folder = write({"m.json": "\n".join(map(json.dumps, rows)), "a.wav": None})
    report = pack(folder / "m.json", tmp_path / "out")
    assert (report.records, report.rows) == (2, 3)
    assert report.seconds == pytest.approx(0.3)
