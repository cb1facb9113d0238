from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kikimimi.contracts.conversation import parse_conversation
from kikimimi.contracts.layout import BadRow, Layout, Row, Segment
from kikimimi.data.audio import decode, probe
from kikimimi.errors import DataError, MissingExtraError, RequestError
from kikimimi_layouts import hugging_face
from kikimimi_layouts.fields import load_fields, shipped_fields
from kikimimi_layouts.hugging_face import HuggingFace

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
Read = Callable[[Layout], list[Any]]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.chdir(tmp_path)


def clip(content: bytes | None, path: str | None = None) -> dict[str, Any] | None:
    return None if content is None and path is None else {"bytes": content, "path": path}


def table(columns: dict[str, Any]) -> pa.Table:
    """Return a table with the metadata by which `datasets` tells audio from other structures."""
    features = {name: {"_type": "Audio"} for name, column in columns.items() if column.type == AUDIO}
    kept = {
        name: {"dtype": "string", "_type": "Value"} for name in columns if columns[name].type == pa.string()
    }
    found = pa.table(columns)
    if len(features) + len(kept) < len(columns):
        return found
    return found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features | kept}})})


def parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(columns), path)
    return path


def layout(path: Path | str, fields: str, **options: Any) -> HuggingFace:
    return HuggingFace(str(path), HuggingFace.Config(fields=fields, **options))


def labelled(tone: bytes) -> dict[str, Any]:
    return {
        "audio": pa.array([clip(tone, "a.wav"), clip(None), clip(tone)], AUDIO),
        "transcription": pa.array(["こんにちは", "x", None]),
    }


def test_labelled_clips(tmp_path: Path, tone: bytes, read: Read) -> None:
    folder = parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", **labelled(tone)).parents[1]
    assert HuggingFace.matches(folder)
    first, second, third = read(layout(folder, "reazonspeech"))
    meta = {"source": "reazonspeech", "license": "CDLA-Sharing-1.0"}
    assert first == Row("train[0]", {"text": "こんにちは", "language": "ja", "meta": meta}, (tone,))
    assert second.clips == ()
    assert third.record["text"] == ""


def test_a_clip_without_a_transcript_has_its_labels(tmp_path: Path, tone: bytes, read: Read) -> None:
    rows = [{"a": tone, "t": None, "e": emotion} for emotion in ("joy", None)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "s.parquet")
    (tmp_path / "f.yaml").write_text("audio: a\ntext: t\nmeta: {emotion: {column: e}}\n")
    assert [row.record for row in read(layout(tmp_path / "s.parquet", "f.yaml"))] == [
        {"language": None, "meta": {"emotion": "joy"}},
        {"text": "", "language": None, "meta": {"emotion": None}},
    ]


def test_constants_and_columns(tmp_path: Path, tone: bytes, read: Read) -> None:
    file = parquet(
        tmp_path / "set.parquet",
        audio=pa.array([clip(tone), clip(None, "clips/b.wav")], AUDIO),
        caption=pa.array(["a", "b"]),
        lang=pa.array(["ja", None]),
        terms=pa.array(["CC0-1.0", None]),
        votes=pa.array([3.0, float("nan")]),
    )
    (tmp_path / "fields.yaml").write_text(
        "audio: audio\ntext: caption\nlanguage: {column: lang}\nlicense: {column: terms}\n"
        "meta: {votes: {column: votes}, round: 2}\n"
    )
    assert HuggingFace.matches(file)
    first, second = read(layout(file, "fields.yaml"))
    meta = {"votes": 3, "round": 2, "license": "CC0-1.0"}
    assert first.record == {"text": "a", "language": "ja", "meta": meta}
    assert second.record == {"text": "b", "language": None, "meta": {"votes": None, "round": 2}}
    assert second.clips == (tmp_path / "clips" / "b.wav",)


def test_a_spoken_instruction(tmp_path: Path, tone: bytes, read: Read) -> None:
    file = parquet(
        tmp_path / "set.parquet",
        instruction_audio=pa.array([clip(tone), clip(None)], AUDIO),
        response=pa.array(["答え", "x"]),
    )
    first, second = read(layout(file, "spoken-magpie-ja"))
    assert first.record == {
        "messages": [
            {"role": "user", "content": [{"type": "audio", "audio": "0"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "答え"}]},
        ],
        "meta": {"source": "spoken-magpie-ja", "language": "ja"},
    }
    assert first.clips == (tone,)
    # A clip that has to be there and is not: a reader takes the record for malformed.
    with pytest.raises(ValueError, match=r"messages\[0\]\.content\[0\]\.audio: expected a text"):
        parse_conversation(second.record)


def test_turns_of_several_columns(tmp_path: Path, tone: bytes, read: Read) -> None:
    second_tone = tone + b"\0\0"
    file = parquet(
        tmp_path / "set.parquet",
        q1_audio=pa.array([clip(tone)] * 2, AUDIO),
        a1=pa.array(["一"] * 2),
        q2_audio=pa.array([clip(second_tone), clip(None)], AUDIO),
        a2=pa.array(["二"] * 2),
    )
    first, second = read(layout(file, "spoken-multiturn-sft"))
    assert first.clips == (tone, second_tone)
    assert parse_conversation(first.record).clips() == ["0", "1"]
    assert [turn["role"] for turn in first.record["messages"]] == ["user", "assistant"] * 2
    assert [turn["role"] for turn in second.record["messages"]] == ["user", "assistant"]
    assert second.clips == (tone,)


def test_fixed_texts_and_skipped_turns(tmp_path: Path, tone: bytes, read: Read) -> None:
    (tmp_path / "fields.yaml").write_text(
        "turns:\n"
        "  - {role: system, fixed: 簡潔に。}\n"
        "  - {role: user, text: context, if_null: skip}\n"
        "  - {role: user, parts: [{fixed: 聞いて。}, {audio: q, transcript: said}]}\n"
        "  - {role: assistant, text: a}\n",
        encoding="utf-8",
    )
    file = parquet(
        tmp_path / "set.parquet",
        context=pa.array(["c", None]),
        q=pa.array([clip(tone)] * 2, AUDIO),
        said=pa.array(["s", None]),
        a=pa.array(["a", "b"]),
    )
    first, second = read(layout(file, "fields.yaml"))
    turns = first.record["messages"]
    assert turns[0] == {"role": "system", "content": [{"type": "text", "text": "簡潔に。"}]}
    assert turns[1]["content"] == [{"type": "text", "text": "c"}]
    assert turns[2]["content"] == [
        {"type": "text", "text": "聞いて。"},
        {"type": "audio", "audio": "0", "text": "s"},
    ]
    assert [turn["role"] for turn in second.record["messages"]] == ["system", "user", "assistant"]
    assert second.record["messages"][1]["content"][1] == {"type": "audio", "audio": "0"}


def test_preference_pairs(tmp_path: Path, tone: bytes, read: Read) -> None:
    turn = pa.struct([("from", pa.string()), ("value", pa.string()), ("audio", AUDIO)])
    prompt: list[dict[str, Any]] = [
        {"from": "human", "value": "質問", "audio": clip(tone)},
        {"from": "gpt", "value": "答え", "audio": None},
        {"from": "human", "value": "続き", "audio": None},
    ]
    file = parquet(
        tmp_path / "set.parquet",
        prompt=pa.array([prompt, [], [{**prompt[0], "from": "tool"}]], pa.list_(turn)),
        chosen=pa.array(["良"] * 3),
        rejected=pa.array(["悪"] * 3),
    )
    first, *bad = read(layout(file, "spoken-dpo"))
    assert first.record == {
        "messages": [
            {"role": "user", "content": [{"type": "audio", "audio": "0", "text": "質問"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "答え"}]},
            {"role": "user", "content": [{"type": "text", "text": "続き"}]},
        ],
        "chosen": "良",
        "rejected": "悪",
        "meta": {"source": "spoken-dpo", "language": "ja"},
    }
    assert parse_conversation(first.record).reference() == "良"
    for row in bad:
        with pytest.raises(ValueError, match=r"at least one turn|'tool' is not one of"):
            parse_conversation(row.record)


def test_text_beside_audio_and_a_system_line(tmp_path: Path, tone: bytes, read: Read) -> None:
    (tmp_path / "fields.yaml").write_text("messages: {column: m, audio: audio, system: S}\n")
    turn = pa.struct([("role", pa.string()), ("content", pa.string()), ("audio", AUDIO)])
    turns = [{"role": "user", "content": "t", "audio": clip(tone)}]
    file = parquet(tmp_path / "set.parquet", m=pa.array([turns], pa.list_(turn)))
    (row,) = read(layout(file, "fields.yaml"))
    assert row.record["messages"] == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "audio", "audio": "0"}, {"type": "text", "text": "t"}]},
    ]


def test_marks_take_the_clips_of_a_column(tmp_path: Path, read: Read, tone: bytes) -> None:
    (tmp_path / "fields.yaml").write_text("messages: {column: m, audios: audios}\n")
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    turns = [
        [{"role": "user", "content": f"<audio>{text}"}, {"role": "assistant", "content": "x"}]
        for text in ("q<audio>", "q", "")
    ]
    clips = [[clip(tone), clip(None, "b.wav")], [], [clip(tone), clip(tone)]]
    file = parquet(
        tmp_path / "set.parquet",
        m=pa.array(turns, pa.list_(turn)),
        audios=pa.array(clips, pa.list_(AUDIO)),
    )
    first, second, third = read(layout(file, "fields.yaml"))
    assert isinstance(first, Row)
    assert first.clips == (tone, tmp_path / "b.wav")
    assert first.record["messages"][0]["content"] == [
        {"type": "audio", "audio": "0"},
        {"type": "text", "text": "q"},
        {"type": "audio", "audio": "1"},
    ]
    assert isinstance(second, BadRow)
    assert "a mark <audio> in a text has no clip" in second.reason
    assert isinstance(third, BadRow)
    assert "audios: 1 of its clips have no mark <audio> in a text" in third.reason


def test_text_alone(tmp_path: Path, read: Read) -> None:
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    file = parquet(tmp_path / "set.parquet", messages=pa.array([turns], pa.list_(turn)))
    (row,) = read(layout(file, "multiturn-calm3-text"))
    assert row.clips == ()
    assert parse_conversation(row.record).reference() == "a"


def test_samples_stored_as_numbers(tmp_path: Path, read: Read) -> None:
    stored = pa.struct([("array", pa.list_(pa.float32())), ("sampling_rate", pa.int64())])
    samples = [0.0, 0.5, -0.25] * 400
    file = parquet(
        tmp_path / "set.parquet",
        audio=pa.array([{"array": samples, "sampling_rate": 16_000}], stored),
        caption=pa.array(["a"]),
    )
    (row,) = read(layout(file, "fsd50k-cc0-captioned"))
    assert isinstance(row.clips[0], bytes)
    assert decode(row.clips[0], sample_rate=16_000, name="x").tolist() == samples


def test_saved_to_disk(tmp_path: Path, tone: bytes, read: Read) -> None:
    import datasets

    file = parquet(tmp_path / "set.parquet", **labelled(tone))
    loaded = datasets.load_dataset("parquet", data_files={"a": str(file), "b": str(file)})
    loaded.save_to_disk(tmp_path / "several")
    loaded["a"].save_to_disk(tmp_path / "one")
    assert HuggingFace.matches(tmp_path / "several")
    assert HuggingFace.matches(tmp_path / "one")
    assert read(layout(tmp_path / "one", "reazonspeech"))[0].name == "a[0]"
    assert read(layout(tmp_path / "several", "reazonspeech", split="b"))[0].clips == (tone,)
    with pytest.raises(RequestError, match=r"several: choose one with split=NAME\. Splits: a, b"):
        layout(tmp_path / "several", "reazonspeech")
    with pytest.raises(RequestError, match=r"several: there is no split 'c'\..* Splits: a, b"):
        layout(tmp_path / "several", "reazonspeech", split="c")
    with pytest.raises(RequestError, match=r"split: .*one holds one split only \(a\), not 'train'; leave it"):
        layout(tmp_path / "one", "reazonspeech", split="train")
    with pytest.raises(RequestError, match=r"subset: .*one has none"):
        layout(tmp_path / "one", "reazonspeech", subset="x")
    arrow = next((tmp_path / "one").glob("*.arrow"))
    assert HuggingFace.matches(arrow)
    assert read(layout(arrow, "reazonspeech"))[0].clips == (tone,)


def test_splits_and_subsets_of_a_folder(tmp_path: Path, tone: bytes, read: Read) -> None:
    folder = tmp_path / "set"
    for split in ("train", "test"):
        parquet(folder / "part" / f"{split}-00000-of-00001.parquet", **labelled(tone))
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: x\n  data_dir: part\n---\n")
    assert read(layout(folder, "reazonspeech"))[0].name == "train[0]"
    assert read(layout(folder, "reazonspeech", subset="x", split="test"))[0].name == "test[0]"
    with pytest.raises(RequestError, match=r'Unknown split "dev"'):
        layout(folder, "reazonspeech", split="dev")
    with pytest.raises(RequestError, match=r"'y' not found"):
        layout(folder, "reazonspeech", subset="y", split="train")


def test_fingerprint_follows_data_fields_and_range(tmp_path: Path, tone: bytes) -> None:
    file = parquet(tmp_path / "a" / "set.parquet", **labelled(tone))
    before = layout(file, "reazonspeech")
    assert before.fingerprint(0, 2) == layout(file, "reazonspeech").fingerprint(0, 2)
    assert before.fingerprint(0, 2) != before.fingerprint(0, 3)
    other = parquet(tmp_path / "b" / "set.parquet", **labelled(tone + b"\0\0"))
    assert before.fingerprint(0, 2) != layout(other, "reazonspeech").fingerprint(0, 2)
    (tmp_path / "f.yaml").write_text("audio: audio\ntext: transcription\n")
    assert before.fingerprint(0, 2) != layout(file, "f.yaml").fingerprint(0, 2)


def test_refuses(tmp_path: Path, tone: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    file = parquet(tmp_path / "set.parquet", **labelled(tone))
    with pytest.raises(
        RequestError, match=r"which columns are what\? .* shipped: cv8-ja, .*fsd50k-cc0-captioned,"
    ):
        HuggingFace(str(file), HuggingFace.Config())
    with pytest.raises(RequestError, match=r"no column 'caption'\. Did.* The columns: audio, transcription"):
        layout(file, "fsd50k-cc0-captioned")
    with pytest.raises(
        RequestError, match=r"gone: no such file or folder, and not the name of a set on the Hub"
    ):
        layout("gone", "reazonspeech")
    with pytest.raises(RequestError, match=r"org/name: .*Hub"):
        layout("org/name", "reazonspeech")
    with pytest.raises(
        RequestError, match=r"revision: is of a set on the Hub, but .*set\.parquet is on this"
    ):
        layout(file, "reazonspeech", revision="main")
    (tmp_path / "set.txt").write_text("")
    with pytest.raises(RequestError, match=r"a file is one of \.arrow, \.parquet, not '\.txt'"):
        layout(tmp_path / "set.txt", "reazonspeech")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"empty: .*any data"):
        layout(tmp_path / "empty", "reazonspeech")
    assert not HuggingFace.matches(tmp_path / "empty")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kikimimi\[datasets\]'"):
        layout(file, "reazonspeech")


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "set.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(Exception, match=r"set\.parquet: .*[Pp]arquet") as caught:
        layout(tmp_path / "set.parquet", "reazonspeech")
    assert type(caught.value).__module__ == "kikimimi.errors"


def test_a_folder_with_code_runs_none_of_it(tmp_path: Path, tone: bytes) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text("raise SystemExit('was run')\n")
    with pytest.raises(RequestError, match="set: "):
        layout(tmp_path / "set", "reazonspeech")


@pytest.mark.parametrize("name", shipped_fields())
def test_shipped_fields_load(name: str) -> None:
    assert load_fields(name).columns()


def test_every_set_of_the_japanese_system_has_fields() -> None:
    assert {"spoken-magpie-ja", "spoken-multiturn-sft", "spoken-dpo", "reazonspeech"} < set(shipped_fields())


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "audoi: a\ntext: t\nlanguage: [ja]\n",
            [
                r"audoi: a file of fields has no option 'audoi'\. Did you mean 'audio'\? Opt.*\(f\.yaml:1\)",
            ],
        ),
        ("audio: a\n", [r"audio: is that of a labelled clip, which needs text too \(f\.yaml:1\)"]),
        ("text: a\n", [r"text: is that of a labelled clip, which needs audio too"]),
        ("language: ja\n", [r"needs exactly one of audio and text, turns, messages; it has none of them"]),
        (
            "audio: a\ntext: t\nturns: [{role: user, text: q}]\n",
            [r"needs exactly one of .*; it has audio and text and turns"],
        ),
        (
            "audio: a\ntext: t\nlanguage: [ja]\n",
            [r"language: expected a text or a section .*, not a list"],
        ),
        ("audio: a\ntext: t\nlanguage: ''\n", [r"language: expected a text or \{column: NAME\}, not ''"]),
        (
            "audio: a\ntext: t\nlicense: {colum: x}\n",
            [r"license: expected a text or \{column: NAME\}, not \{'c"],
        ),
        ("audio: a\ntext: t\nmeta: {x: {colum: y}}\n", [r"meta: x: expected a value or \{column: NAME\}"]),
        ("audio: a\ntext: t\nmeta: {license: y}\n", [r"meta: license: stands beside meta, not in it"]),
        ("audio: a\ntext: t\nrejected: r\n", [r"rejected: answers a conversation; this is a labelled clip"]),
        (
            "turns:\n  - {role: human, text: q}\n  - {role: user, audio: a, text: t}\n  - {role: user}\n"
            "  - {role: user, text: t, parts: [{text: u}]}\n  - {role: user, text: t, transcript: u}\n",
            [
                r"turns\[0\]\.role: expected one of system, user, assistant, not 'human' \(f\.yaml:2\)",
                r"turns\[1\]: needs exactly one of audio, text, fixed; it has audio, text \(f\.yaml:3\)",
                r"turns\[2\]: needs exactly one of audio, text, fixed; it has none \(f\.yaml:4\)",
                r"turns\[3\]\.parts: stands in place of text: leave one of the two out \(f\.yaml:5\)",
                r"turns\[4\]\.transcript: tells of the audio, so name that too \(f\.yaml:6\)",
            ],
        ),
        (
            "messages: {column: m, roles: {gpt: bot}}\n",
            [r"messages\.roles\.gpt: expected one of system, user, assistant, not 'bot'"],
        ),
        ("messages: {column: m, text: null}\n", [r"messages: needs text or audio, or both"]),
        ("messages: {column: m, transcript: t}\n", [r"transcript: tells of the audio, so name that too"]),
        ("messages: {role: r}\n", [r"messages\.column: must be given: a text"]),
        ("a: !!python/object:x {}\n", [r"the tag .* is not allowed here"]),
        ("[", [r"not YAML"]),
        ("", [r"expected a section"]),
    ],
)
def test_fields_refuse(tmp_path: Path, text: str, messages: list[str]) -> None:
    (tmp_path / "f.yaml").write_text(text)
    for message in messages:
        with pytest.raises(RequestError, match=message):
            load_fields("f.yaml")


def test_fields_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"no file spoken-magpie, .* Did you mean 'spoken-magpie-ja'\? Shipped"
    ):
        load_fields("spoken-magpie")
    (tmp_path / "f.yaml").write_bytes(b"\xff")
    with pytest.raises(RequestError, match=r"f\.yaml: not UTF-8"):
        load_fields("f.yaml")


def test_rows_without_a_clip_that_is_read_are_bad(tmp_path: Path, tone: bytes, read: Read) -> None:
    good = {"array": [0.1, -0.1] * 800, "sampling_rate": 16_000.0}
    rows: list[Any] = [good, {**good, "sampling_rate": None}, {**good, "array": [0.1, 1e9]}, None]
    pq.write_table(pa.Table.from_pylist([{"a": row, "t": "x"} for row in rows]), tmp_path / "s.parquet")
    (tmp_path / "f.yaml").write_text("audio: a\ntext: t\n")
    first, second, third, last = read(layout(tmp_path / "s.parquet", "f.yaml"))
    assert decode(first.clips[0], sample_rate=16_000, name="a").shape == (1600,)
    assert second == BadRow(
        "train[1]",
        "train[1]: a: its sampling rate is missing; say it with sampling_rate in the file of fields",
    )
    assert len(third.clips) == 1  # decoding says what is wrong with it
    assert last.clips == ()


def test_sampling_rates_of_a_column_and_of_every_row(tmp_path: Path, read: Read) -> None:
    table = pa.table({"a": [[0.1, -0.1] * 800], "t": ["x"], "hz": [8000]})
    pq.write_table(table, tmp_path / "s.parquet")
    for said, rate in (("{column: hz}", 8000), ("4000", 4000)):
        (tmp_path / "f.yaml").write_text(f"audio: a\ntext: t\nsampling_rate: {said}\n")
        (row,) = read(layout(tmp_path / "s.parquet", "f.yaml"))
        assert probe(row.clips[0], "a")[:2] == (1600 / rate, rate)
    (tmp_path / "f.yaml").write_text("audio: a\ntext: t\nsampling_rate: -1\n")
    with pytest.raises(
        RequestError, match=r"sampling_rate: expected a number of Hz or {column: NAME}, not -1"
    ):
        layout(tmp_path / "s.parquet", "f.yaml")


def test_what_is_no_clip_is_told(tmp_path: Path, read: Read) -> None:
    pq.write_table(pa.Table.from_pylist([{"a": {"x": 1, "y": 2}, "t": "x"}] * 2), tmp_path / "s.parquet")
    (tmp_path / "f.yaml").write_text("audio: a\ntext: t\n")
    row, _ = read(layout(tmp_path / "s.parquet", "f.yaml"))
    assert row.reason == "train[0]: a: holds x, y; a clip is bytes, a path, or array and sampling_rate"


@pytest.mark.parametrize("messages", ["hello", 5, [1, 2], ["a"]])
def test_turns_that_are_none(tmp_path: Path, read: Read, messages: Any) -> None:
    pq.write_table(pa.Table.from_pylist([{"m": messages}]), tmp_path / "s.parquet")
    (tmp_path / "f.yaml").write_text("messages: {column: m}\n")
    (row,) = read(layout(tmp_path / "s.parquet", "f.yaml"))
    assert row == BadRow("train[0]", "train[0]: m: expected a list of turns")


def test_segments_of_files(tmp_path: Path, tone: bytes, read: Read) -> None:
    rows = [
        {"a": {"path": "long.wav", "bytes": None}, "t": "x", "start": 1.0, "end": 2.5, "line": 1},
        {"a": {"path": "cut.wav", "bytes": tone}, "t": "y", "start": 7.0, "end": 9.0, "line": 0},
        {"a": {"path": "long.wav", "bytes": None}, "t": "z", "start": 3.0, "end": None, "line": 0},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "s.parquet")
    long = tmp_path / "long.wav"

    def clips(more: str) -> list[Any]:
        (tmp_path / "f.yaml").write_text(f"audio: a\ntext: t\n{more}")
        found = read(layout(tmp_path / "s.parquet", "f.yaml"))
        return [row.reason if isinstance(row, BadRow) else row.clips[0] for row in found]

    # What a set holds as bytes was cut before; of a file that several rows name, each is a part.
    lacks = "train[2]: a: the segment begins at 3 s, but nothing says where it ends"
    assert clips("") == [Segment(long, 1.0, 1.5), tone, lacks]
    assert clips("segments: ignore\n") == [long, tone, long]
    of_meta = [{"a": "long.wav", "t": "x", "meta": {"offset": 2.0, "duration": 1.0, "speaker": "s"}}]
    pq.write_table(pa.Table.from_pylist(of_meta), tmp_path / "m.parquet")
    for fields, cut in (
        ("audio: a\ntext: t", Segment(long, 2.0, 1.0)),
        ("turns: [{role: user, audio: a}, {role: assistant, text: t}]", Segment(long, 2.0, 1.0)),
        ("audio: a\ntext: t\nsegments: ignore", long),
    ):
        (tmp_path / "f.yaml").write_text(f"{fields}\n")
        assert read(layout(tmp_path / "m.parquet", "f.yaml"))[0].clips == (cut,)
    assert clips("start: start\nend: end\n") == [Segment(long, 1.0, 1.5), Segment(tone, 7.0, 2.0), lacks]
    assert clips("channel: line\n") == [
        Segment(long, channel=1),
        Segment(tone, channel=0),
        Segment(long, channel=0),
    ]
    (tmp_path / "f.yaml").write_text("audio: a\ntext: t\nstart: start\nend: end\n")
    assert read(layout(tmp_path / "s.parquet", "f.yaml"))[0].name == "train[0] [1.00-2.50 s]"
    for more, said in (
        ("segments: ignore\nstart: start\n", "segments: ignores start: leave one of the two out"),
        ("start: begin\n", "no column 'begin'"),
    ):
        (tmp_path / "f.yaml").write_text(f"audio: a\ntext: t\n{more}")
        with pytest.raises(RequestError, match=said):
            layout(tmp_path / "s.parquet", "f.yaml")
    (tmp_path / "f.yaml").write_text("turns: [{role: user, fixed: x, end: end}]\n")
    with pytest.raises(RequestError, match="end: tell of the audio, so name that too"):
        layout(tmp_path / "s.parquet", "f.yaml")
    (tmp_path / "f.yaml").write_text("turns: [{role: user, audio: a}]\nend: end\n")
    with pytest.raises(RequestError, match="end: tell of the part that a labelled clip is"):
        layout(tmp_path / "s.parquet", "f.yaml")


@pytest.mark.fault("Rows: columns that tell of a segment", "cut, or the row is malformed")
def test_segments_of_conversations(tmp_path: Path, tone: bytes, read: Read) -> None:
    """A turn is never the whole recording of which it is a part."""
    long, other = tmp_path / "long.wav", tmp_path / "other.wav"
    of_row = {"start": 1.0, "end": 2.5, "from": 3.0, "to": 4.0}
    rows = [
        {"a": {"path": "long.wav", "bytes": None}, "b": "other.wav", "t": "x", **of_row},
        {"a": {"path": "cut.wav", "bytes": tone}, "b": "other.wav", "t": "y", **of_row},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "s.parquet")

    def clips(turns: str) -> list[Any]:
        (tmp_path / "f.yaml").write_text(f"turns: [{turns}, {{role: assistant, text: t}}]\n")
        found = read(layout(tmp_path / "s.parquet", "f.yaml"))
        return [row.reason if isinstance(row, BadRow) else [*row.clips] for row in found]

    assert clips("{role: user, audio: a}") == [[Segment(long, 1.0, 1.5)], [tone]]
    assert clips("{role: user, parts: [{audio: a}, {audio: b, start: from, end: to}]}") == [
        [long, Segment(other, 3.0, 1.0)],
        [tone, Segment(other, 3.0, 1.0)],
    ]
    assert clips("{role: user, audio: a, start: from, end: to}") == [
        [Segment(long, 3.0, 1.0)],
        [Segment(tone, 3.0, 1.0)],
    ]
    several, taken = clips("{role: user, parts: [{audio: a}, {audio: b}]}")
    assert several.endswith("the conversation: tells of a segment, but has 2 clips: tell it in audio parts")
    assert taken == [tone, other]


@pytest.mark.fault("Rows: columns that tell of a segment", "cut, or the row is malformed")
def test_segments_of_turns_and_of_clips(tmp_path: Path, tone: bytes, read: Read) -> None:
    long = tmp_path / "long.wav"
    clip = {"path": "long.wav", "offset": 2.0, "duration": 1.0}
    turns = [
        {"role": "user", "audio": {"path": "long.wav"}, "start": 1.0, "end": 2.5, "channel": 1},
        {"role": "user", "audio": {"path": "long.wav"}, "start": 3.0, "end": 4.5, "channel": 0},
    ]
    rows = [{"m": turns, "c": clip, "t": "x"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "s.parquet")
    (tmp_path / "f.yaml").write_text("messages: {column: m, audio: audio}\n")
    assert read(layout(tmp_path / "s.parquet", "f.yaml"))[0].clips == (
        Segment(long, 1.0, 1.5, 1),
        Segment(long, 3.0, 1.5, 0),
    )
    (tmp_path / "f.yaml").write_text("messages: {column: m, audio: audio}\nsegments: ignore\n")
    assert read(layout(tmp_path / "s.parquet", "f.yaml"))[0].clips == (long, long)
    (tmp_path / "f.yaml").write_text("audio: c\ntext: t\n")
    assert read(layout(tmp_path / "s.parquet", "f.yaml"))[0].clips == (Segment(long, 2.0, 1.0),)


@pytest.mark.fault(
    "Rows: conversations whose audio stands elsewhere", "read, or the row is malformed; never text alone"
)
@pytest.mark.parametrize("clip", [{"bytes": b"x", "path": None}, {"bytes": None, "path": "a.wav"}, "a.wav"])
def test_a_clip_of_a_turn_that_is_not_named_is_not_lost(tmp_path: Path, read: Read, clip: Any) -> None:
    (tmp_path / "f.yaml").write_text("messages: {column: m}\n")
    turns = [{"role": "user", "content": "q", "sound": clip}, {"role": "assistant", "content": "a"}]
    pq.write_table(pa.Table.from_pylist([{"m": turns}]), tmp_path / "s.parquet")
    (row,) = read(layout(tmp_path / "s.parquet", "f.yaml"))
    assert row == BadRow("train[0]", "train[0]: m: 'sound' of a turn holds a clip: name it with audio: sound")


def test_files_without_rows(tmp_path: Path, tone: bytes, read: Read) -> None:
    columns = labelled(tone)
    empty = {name: column[:0] for name, column in columns.items()}
    folder = parquet(tmp_path / "none" / "train-0.parquet", **empty).parent
    for path in (folder, folder / "train-0.parquet"):
        with pytest.raises(RequestError, match=f"^{path}: holds no rows$"):
            layout(path, "reazonspeech")
    folder = parquet(tmp_path / "some" / "train-0.parquet", **empty).parent
    parquet(folder / "train-1.parquet", **columns)
    assert len(read(layout(folder, "reazonspeech"))) == 3


@pytest.mark.parametrize("name", ["[ja]", "{1}", "a*b"])
def test_paths_are_no_patterns(tmp_path: Path, tone: bytes, read: Read, name: str) -> None:
    file = parquet(tmp_path / name / f"{name}.parquet", **labelled(tone))
    for path in (file, file.parent):
        assert len(read(layout(path, "reazonspeech"))) == 3


def test_a_value_that_python_cannot_hold_ends_no_set(tmp_path: Path, tone: bytes, read: Read) -> None:
    table = pa.table(
        {
            "a": pa.array([clip(tone)] * 3, AUDIO),
            "t": ["x", "y", "z"],
            "at": pa.array([1, 10**14, None], pa.timestamp("s")),
            "lang": pa.array([None, float("nan"), 1.0]),
        }
    )
    pq.write_table(table, tmp_path / "s.parquet")
    (tmp_path / "f.yaml").write_text(
        "audio: a\ntext: t\nlanguage: {column: lang}\nmeta: {at: {column: at}}\n"
    )
    first, second, third = read(layout(tmp_path / "s.parquet", "f.yaml"))
    assert first.record["meta"]["at"].isoformat() == "1970-01-01T00:00:01"
    assert isinstance(second.record["meta"]["at"], str)
    assert [first.record["language"], second.record["language"]] == [None, None]
    assert third.record["meta"] == {"at": None}


def test_parquet_in_one_giant_piece_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "a" / "x.parquet", text=pa.array(["x" * 100_000]), audio=pa.array(["y"]))
    (tmp_path / "a.yaml").write_text("{audio: audio, text: text}")
    monkeypatch.setattr(hugging_face, "MAX_GROUP", 1000)
    for source in (path, path.parent):
        with pytest.raises(DataError, match=r"x\.parquet: a group of its rows holds .* row_group_size=100"):
            layout(source, str(tmp_path / "a.yaml"))


def test_several_splits_in_their_order(tmp_path: Path, tone: bytes, read: Read) -> None:
    for split, texts in (("law", ["a", "b"]), ("biology", ["c"]), ("other", ["d"])):
        parquet(
            tmp_path / f"set/{split}-00000-of-00001.parquet",
            audio=pa.array([clip(tone, f"{text}.wav") for text in texts], AUDIO),
            text=pa.array(texts),
        )
    files = "".join(f"  - {{split: {name}, path: {name}-*}}\n" for name in ("biology", "law", "other"))
    (tmp_path / "set/README.md").write_text(
        f"---\nconfigs:\n- config_name: mmsu\n  data_files:\n{files}---\n"
    )
    fields = tmp_path / "fields.yaml"
    fields.write_text("{audio: audio, text: text, split: domain}")
    rows = read(layout(tmp_path / "set", str(fields), subset="mmsu", split="law+biology"))
    assert [row.name for row in rows] == ["law[0]", "law[1]", "biology[0]"]
    assert [(row.record["text"], row.record["meta"]) for row in rows] == [
        ("a", {"domain": "law"}),
        ("b", {"domain": "law"}),
        ("c", {"domain": "biology"}),
    ]
    with pytest.raises(RequestError, match=r"laws"):
        layout(tmp_path / "set", str(fields), subset="mmsu", split="law+laws")
