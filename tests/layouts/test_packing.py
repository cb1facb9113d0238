"""Each corpus becomes shards: found by how it is laid out, packed, and read back."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kikimimi.contracts import registry
from kikimimi.contracts.layout import Layout, Row
from kikimimi.data.packing.pack import pack
from kikimimi.data.packing.source import PackSource, find_tars
from kikimimi.data.shards.record import Record
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import RequestError

Write = Callable[..., Path]
ONE_IS_MISSING = {"missing file": 1}


def neighbour(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clotho() -> dict[str, str | None]:
    module = neighbour("test_clotho")
    return {
        "clotho_captions_development.csv": module.CAPTIONS,
        "clotho_metadata_development.csv": module.METADATA,
        f"development/{module.AUDIO}": None,
    }


def records(pattern: str) -> list[Record]:
    shards = Shards("packed", pattern)
    return [shards.read(row) for row in range(len(shards))]


def dropped(report: Any) -> dict[str, int]:
    return {reason: counts["rows"] for reason, counts in report.dropped().items()}


@pytest.mark.parametrize(
    ("name", "files", "options", "texts", "left_out"),
    [
        ("common_voice", "test_common_voice", [], ['"では、危険だと？"と彼は'], ONE_IS_MISSING),
        (
            "jsut",
            "test_jsut",
            ["subset=all"],
            [
                "水をマレーシアから買わなくてはならないのです。",
                "あなたの荷物は、ロサンゼルスに残っています。",
            ],
            ONE_IS_MISSING,
        ),
        (
            "librispeech",
            "test_librispeech",
            ["split=dev-clean"],
            ["harangue", "also a popular contrivance"],
            ONE_IS_MISSING,
        ),
        ("fsd50k", "test_fsd50k", [], ["Electric guitar, Guitar, Music"], {"missing file": 2}),
        ("clotho", clotho, [], ["A muddled noise, of radio."], ONE_IS_MISSING),
        (
            "reazonspeech",
            lambda: {"tiny.tsv": neighbour("test_reazonspeech").TABLE, "000/0a1b.flac": None},
            [],
            ["今日のニュースをお伝えします。"],
            ONE_IS_MISSING,
        ),
    ],
    ids=["common_voice", "jsut", "librispeech", "fsd50k", "clotho", "reazonspeech"],
)
def test_corpora(
    write: Write,
    tmp_path: Path,
    name: str,
    files: Any,
    options: list[str],
    texts: list[str],
    left_out: dict[str, int],
) -> None:
    folder = write(neighbour(files).FILES if isinstance(files, str) else files())
    source = PackSource.open(folder, None, options)
    assert source.name == name
    report = pack(source, tmp_path / "out")
    assert [record.json["text"] for record in records(report.pattern)] == texts
    assert dropped(report) == left_out
    for record in records(report.pattern):
        assert set(record.json) == {"text", "language", "meta"}
        assert {"license", "source"} <= set(record.json["meta"])
        assert record.json["language"] in ("ja", "en")


def test_archives_of_a_corpus_are_no_shards(write: Write) -> None:
    table = neighbour("test_reazonspeech").TABLE
    folder = write({"tiny.tsv": table, "000/0a1b.flac": None, "000.tar": "", "001.tar": ""})
    assert find_tars(str(folder)) == []
    assert PackSource.open(folder).name == "reazonspeech"
    assert find_tars(str(folder / "000.tar")) == [str(folder / "000.tar")]
    assert find_tars(str(folder / "*.tar")) == [str(folder / name) for name in ("000.tar", "001.tar")]
    (folder / "tiny.tsv").unlink()
    assert len(find_tars(str(folder))) == 2


def test_a_manifest_with_conversations(write: Write, tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": "!"},
        {
            "role": "user",
            "content": [{"type": "audio", "audio": "b.flac"}, {"type": "audio", "audio": "a.wav"}],
        },
    ]
    lines = [
        {"messages": turns, "chosen": "good", "rejected": "bad"},
        {"messages": turns[:2]},
        {"messages": [{"role": "user", "content": "q"}, turns[1]]},
        {"path": "a.wav", "text": "x"},
        {"path": "a.wav", "text": " "},
        {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "gone.wav"}]}, turns[1]]},
    ]
    manifest = "\n".join(json.dumps(line) for line in lines)
    folder = write({"metadata.jsonl": manifest, "a.wav": None, "b.flac": None})
    report = pack(folder, tmp_path / "out", options=["license=CC0-1.0", "language=ja"])
    assert dropped(report) == {"empty text": 1, "missing file": 1}
    pair, single, text_only, clip = records(report.pattern)
    assert list(pair.audio) == ["0.flac", "1.flac"]
    parts = [
        part
        for turn in pair.json["messages"]
        if isinstance(turn["content"], list)
        for part in turn["content"]
    ]
    assert [part["audio"] for part in parts if part["type"] == "audio"] == ["0.flac", "1.flac", "0.flac"]
    assert (pair.json["chosen"], pair.json["rejected"]) == ("good", "bad")
    assert list(single.audio) == ["0.flac"]
    assert not text_only.audio
    assert clip.json == {"text": "x", "language": "ja", "meta": {"license": "CC0-1.0"}}
    assert text_only.json["meta"] == {"license": "CC0-1.0", "language": "ja"}


@pytest.mark.slow
def test_a_hub_set_in_several_processes(tmp_path: Path, tone: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))  # of the processes
    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    clips = [{"bytes": tone, "path": None}, None, {"bytes": b"no audio", "path": None}]
    (tmp_path / "set").mkdir()
    pq.write_table(
        pa.table({"instruction_audio": pa.array(clips, audio), "response": pa.array(["a", "b", "c"])}),
        tmp_path / "set" / "train.parquet",
    )
    arguments: dict[str, Any] = {"options": ["fields=spoken-magpie-ja"], "records_per_shard": 2}
    report = pack(tmp_path / "set", tmp_path / "out", workers=2, **arguments)
    assert dropped(report) == {"malformed": 1, "undecodable audio": 1}
    (record,) = records(report.pattern)
    assert record.json["messages"][0]["content"] == [{"type": "audio", "audio": "0.flac"}]
    assert record.json["messages"][1]["content"] == [{"type": "text", "text": "a"}]
    again = pack(tmp_path / "set", tmp_path / "out", **arguments)
    assert again.kept_shards == 2


def test_options_of_a_layout(write: Write) -> None:
    folder = write({"all.csv": "audio_file,sentence\na.wav,x\n", "a.wav": None})
    source = PackSource.open(folder / "all.csv", None, ["path=audio_file", "text=sentence"])
    row = next(source.layout.rows(0, 1))
    assert isinstance(row, Row)
    assert row.record["text"] == "x"
    with pytest.raises(RequestError, match=r"layout 'manifest' has no option 'txt'\. Did you mean 'text'\?"):
        PackSource.open(folder / "all.csv", None, ["txt=sentence"])


@pytest.mark.parametrize("name", registry.names("layout"))
def test_layouts_look_at_anything(write: Write, name: str) -> None:
    component: type[Layout] = registry.load("layout", name)
    folder = write({"notes.txt": "x"})
    for path in (folder, folder / "notes.txt", folder / "gone"):
        assert component.matches(path) is False
    with pytest.raises(RequestError, match="gone"):
        component(
            str(folder / "gone"),
            component.Config(**({"fields": "reazonspeech"} if name == "hugging_face" else {})),
        )
