from __future__ import annotations

import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kikimimi.data.shards.index import ShardIndex
from kikimimi.data.shards.indexing import build_index
from kikimimi.data.shards.record import RecordError
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import DataError

WriteTar = Callable[..., Path]
Tone = Callable[..., bytes]


def _json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def _conversation(*clips: str) -> bytes:
    content = [{"type": "audio", "audio": clip} for clip in clips] + [
        {"type": "text", "text": "何と言いましたか。"}
    ]
    answer = {"role": "assistant", "content": "はい。"}
    return _json({"messages": [{"role": "user", "content": content}, answer], "rejected": "いいえ。"})


def _marked() -> bytes:
    return _json({"messages": [{"role": "user", "content": "<audio>?"}]})


def test_reads_a_conversation_with_its_clips_in_order(write_tar: WriteTar, tone: Tone) -> None:
    clips = [f"{i}.wav" for i in range(11)]
    data = [("a/b.json", _conversation(*clips)), *((f"a/b.{clip}", tone(0.1)) for clip in sorted(clips))]
    path = write_tar(data)
    build_index(path)
    index = ShardIndex.load(path)
    record = Shards("d", str(path)).read(0)
    assert record.key == "a/b"
    assert list(record.audio) == clips
    assert record.texts() == ["何と言いましたか。", "はい。", "いいえ。"]
    assert index.clips.tolist() == [11]
    assert index.seconds[0] == pytest.approx(1.1)
    assert index.characters.tolist() == [9 + 3 + 4]
    assert record.where == f"{path}, byte 0, record 'a/b'"


def test_long_names_folders_and_dot_slash(write_tar: WriteTar, tone: Tone) -> None:
    folder = tarfile.TarInfo("./")
    folder.type = tarfile.DIRTYPE
    key = "長い名前" * 40
    path = write_tar([(folder, b""), (f"./{key}.json", _json({"text": "あ"})), (f"./{key}.0.wav", tone(0.1))])
    build_index(path)
    assert Shards("d", str(path)).read(0).key == key


def _link(kind: bytes, name: str = "a.json") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


_CLIP = ("a.0.wav", b"")
_TEXT = ("a.json", _json({"text": "あ"}))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([_CLIP], r"record 'a': a\.json is missing; the record has 0\.wav"),
        ([("a.json", b"{"), _CLIP], r"byte 0, record 'a': a\.json is not JSON: "),
        ([("a.json", b"\xff"), _CLIP], r"a\.json is not JSON: "),
        ([("a.json", b"[" * 100_000), _CLIP], r"a\.json is not JSON: "),
        ([("a.json", b"[1]"), _CLIP], "holds no mapping but list"),
        ([("../a.json", b"{}")], r"byte 0, record '\.\./a': member name '\.\./a\.json' leaves the shard"),
        ([("/a.json", b"{}")], "leaves the shard"),
        ([(_link(tarfile.SYMTYPE), b"")], r"member 'a\.json' is a link, a device or sparse"),
        ([(_link(tarfile.LNKTYPE), b"")], "is a link, a device"),
        ([(_link(tarfile.CHRTYPE), b"")], "is a link, a device"),
        (
            [_TEXT, ("a.pkl", b"\x80\x04")],
            r"byte 1024, record 'a': member 'a\.pkl' is neither KEY\.json, KEY\.txt nor a clip",
        ),
        ([_TEXT, ("a.pth", b"x")], "kinds of clip: flac, mp3, ogg, opus, wav"),
        ([_TEXT, ("a.pyd", b"x")], "is neither"),
        ([(".json", b"{}")], "is neither"),
        ([_TEXT, _TEXT], "a member occurs twice"),
        ([_TEXT], "the labelled clip has no audio"),
        ([("a.json", b"{}"), _CLIP], r"neither a conversation \(messages\) nor a labelled clip \(text, or"),
        ([("a.json", _json({"text": "あ", "language": 3})), _CLIP], "language: expected a text"),
        (
            [("a.json", _json({"messages": [{"role": "robot"}]}))],
            r"messages\[0\]\.role: 'robot' is not one of",
        ),
        ([("a.json", _conversation("1.wav")), _CLIP], r"names the clip 1\.wav, but the record has 0\.wav"),
        ([("a.json", _conversation()), _CLIP], r"no turn of the conversation holds the clip 0\.wav"),
        ([("a.json", _marked())], r"'<audio>' in a text stands for a clip in many tools"),
        ([_TEXT, ("a.0.flac", b"not audio")], r"record 'a': 0\.flac: cannot be decoded"),
    ],
)
def test_refuses_malformed_records(
    write_tar: WriteTar, tone: Tone, members: list[tuple[Any, bytes]], message: str
) -> None:
    path = write_tar([(name, tone(0.1) if name == "a.0.wav" else content) for name, content in members])
    with pytest.raises(DataError, match=message) as caught:
        build_index(path)
    assert str(path) in str(caught.value)


@pytest.mark.fault("Limits: nesting of a record's JSON", "200 levels, whatever else is on the stack")
@pytest.mark.parametrize("form", ["[]", "{}"])
def test_the_nesting_of_json_has_a_limit_of_its_own(write_tar: WriteTar, tone: Tone, form: str) -> None:
    """What was indexed is read in training, too: there, the stack is deeper."""

    def member(depth: int) -> bytes:  # that is the first level
        inner = "[" * (depth - 1) + "]" * (depth - 1) if form == "[]" else '{"a":' * (depth - 1) + "1"
        return f'{{"text": "あ", "extra": {inner}{"}" * (depth - 1) * (form == "{}")}}}'.encode()

    def deeply(frames: int) -> Any:
        return deeply(frames - 1) if frames else Shards("d", str(path)).read(0)

    path = write_tar([("a.json", member(200)), ("a.0.wav", tone(0.1))])
    build_index(path)
    assert deeply(0) == deeply(300)
    for depth in (201, 700, 950, 100_000):
        refused = write_tar([("a.json", member(depth)), ("a.0.wav", tone(0.1))])
        with pytest.raises(
            DataError, match=r"a\.json is not JSON: nested too deeply \(more than 200 levels\)"
        ):
            build_index(refused)


def test_records_whose_members_do_not_stand_together(write_tar: WriteTar, tone: Tone) -> None:
    clip = tone(0.1)
    members = [("a.json", _TEXT[1]), ("a.0.wav", clip), ("b.json", _TEXT[1]), ("b.0.wav", clip)]
    path = write_tar([*members, ("a.json", _TEXT[1]), ("a.1.wav", clip)])
    with pytest.raises(
        DataError, match="record 'a': the key occurs twice, or its members do not stand together"
    ):
        build_index(path)


def test_transcript_in_a_text_member(write_tar: WriteTar, tone: Tone) -> None:
    flac = tone(0.5, kind="FLAC")
    path = write_tar(
        [
            ("a.flac", flac),
            ("a.txt", "\ufeff今日は。\n".encode()),
            ("b.flac", flac),
            ("b.json", _json({"language": "ja", "meta": {"license": "CC0-1.0"}})),
            ("b.txt", "はい".encode()),
            ("c.flac", flac),
            ("c.json", _json({"text": "同じ", "speaker": 3})),
            ("c.txt", "同じ".encode()),
        ]
    )
    build_index(path)
    shards = Shards("speech", str(path))
    assert [shards.read(row).json for row in range(3)] == [
        {"text": "今日は。"},
        {"language": "ja", "meta": {"license": "CC0-1.0"}, "text": "はい"},
        {"text": "同じ", "speaker": 3},
    ]
    assert all(shards.read(row).audio == {"flac": flac} for row in range(3))
    assert shards.characters.tolist() == [4, 2, 2]
    assert shards.languages.tolist() == [-1, 0, -1]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.txt", b" \n"), _CLIP], "text: empty, or not a text"),
        ([("a.txt", b"\xff"), _CLIP], r"a\.txt is not UTF-8: "),
        ([("a.txt", b"x" * 1_000_001), _CLIP], r"a\.txt has 1000001 bytes; a transcript has at most 1000000"),
        ([("a.txt", b"yes"), ("a.json", b'{"text": "no"}'), _CLIP], r"a\.json and a\.txt both say what"),
        ([("a.txt", b"yes"), ("a.json", _conversation("0.wav")), _CLIP], r"a\.json and a\.txt both say what"),
        ([("a.txt", b"yes")], "the labelled clip has no audio"),
        ([("a.0.txt", b"yes"), _CLIP], r"member 'a\.0\.txt' is neither"),
    ],
)
def test_refuses_malformed_transcripts(
    write_tar: WriteTar, tone: Tone, members: list[tuple[Any, bytes]], message: str
) -> None:
    path = write_tar([(name, tone(0.1) if name == "a.0.wav" else content) for name, content in members])
    with pytest.raises(DataError, match=message):
        build_index(path)


def test_errors_of_records_survive_other_processes() -> None:
    error = RecordError("a.tar, byte 0, record 'a'", "text: empty")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "a.tar, byte 0, record 'a': text: empty"
    assert again.reason == error.reason == "text: empty"
    assert str(RecordError("what torch makes of a traceback")) == "what torch makes of a traceback"


def test_a_labelled_clip_may_lack_a_transcript(write_tar: WriteTar, tone: Tone) -> None:
    """Emotions, captions and music need no words; a clip of which nothing is known is of no use."""
    for data in ({"emotion": "happy"}, {"language": "ja", "meta": {"caption": "雨の音"}}):
        shard = write_tar([("a.json", _json(data)), ("a.0.wav", tone())])
        build_index(shard)
        shards = Shards("tones", str(shard))
        assert shards.read(0).json == data
        assert shards.characters.tolist() == [0]
    for useless in ({}, {"language": "ja", "meta": {}}):
        shard = write_tar([("a.json", _json(useless)), ("a.0.wav", tone())])
        with pytest.raises(DataError, match=r"neither a conversation \(messages\) nor a labelled clip"):
            build_index(shard)


def test_files_that_systems_add_are_passed_over(write_tar: WriteTar, tone: Tone) -> None:
    junk = b"\0\5\26\7\xff"
    path = write_tar(
        [
            ("._a.json", junk),
            ("a.json", _TEXT[1]),
            ("._a.0.wav", junk),
            (".DS_Store", junk),
            ("a.0.wav", tone(0.1)),
            ("__MACOSX/._a.json", junk),
            ("__MACOSX/b.json", junk),
            ("Thumbs.db", junk),
            ("d/b.json", _TEXT[1]),
            ("d/desktop.ini", junk),
            ("d/b.wav", tone(0.2)),
            ("d/.ipynb_checkpoints.pkl", junk),
        ]
    )
    build_index(path)
    shards = Shards("d", str(path))
    assert [shards.read(row).key for row in range(len(shards))] == ["a", "d/b"]
    assert [list(shards.read(row).audio) for row in range(2)] == [["0.wav"], ["wav"]]


def test_capitals_in_suffixes(write_tar: WriteTar, tone: Tone) -> None:
    path = write_tar(
        [
            ("a.json", _TEXT[1]),
            ("a.FLAC", tone(0.1, kind="FLAC")),
            ("b.JSON", _TEXT[1]),
            ("b.0.Wav", tone(0.2)),
            ("c.TXT", "う".encode()),
            ("c.WAV", tone(0.3)),
            ("d.json", _conversation("0.WAV")),
            ("d.0.WAV", tone(0.4)),
        ]
    )
    build_index(path)
    shards = Shards("d", str(path))
    assert shards.seconds.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [shards.read(row).texts()[0] for row in range(3)] == ["あ", "あ", "う"]
    assert list(shards.read(3).audio) == ["0.WAV"]


def test_a_key_ends_at_the_first_dot(write_tar: WriteTar, tone: Tone) -> None:
    path = write_tar([("Track 2.0.wav", tone(0.1)), ("Track 2.0.txt", b"go")])
    said = (
        r"'Track 2\.0\.txt' is neither .* A key ends at the first dot of a name, here 'Track 2': no other dot"
    )
    with pytest.raises(DataError, match=said):
        build_index(path)


def test_says_that_members_stand_apart(write_tar: WriteTar, tone: Tone) -> None:
    members = [("a.json", _TEXT[1]), ("b.json", _TEXT[1]), ("a.0.wav", tone(0.1)), ("b.0.wav", tone(0.1))]
    path = write_tar(members)
    said = r"byte 0, record 'a': the labelled clip has no audio: .* do not stand together \(tar --sort=name"
    with pytest.raises(DataError, match=said):
        build_index(path)
    path = write_tar([*members, ("c.json", _TEXT[1]), ("c.0.wav", tone(0.1)), ("d.json", _TEXT[1])])
    build_index(path, skip=True)
    reasons = [left.reason for left in ShardIndex.load(path).rejected]
    assert len(reasons) == 5
    assert ["tar --sort=name" in reason for reason in reasons] == [True] * 4 + [False]


@pytest.mark.parametrize("meta", [5, "x", ["a"], [{"a": 1}], True, 1.5])
def test_meta_that_is_no_mapping(write_tar: WriteTar, tone: Tone, meta: Any) -> None:
    path = write_tar([("a.json", _json({"text": "あ", "meta": meta})), ("a.0.wav", tone(0.1))])
    with pytest.raises(DataError, match=f"record 'a': meta: expected a mapping, not {type(meta).__name__}"):
        build_index(path)


@pytest.mark.parametrize("told", [{"offset": 0.05}, {"start": 0, "end": 0.05}, {"channel": 1}])
def test_a_part_of_a_clip_is_not_taken_for_the_whole(
    write_tar: WriteTar, tone: Tone, told: dict[str, Any]
) -> None:
    part = {"type": "audio", "audio": "0.wav", "duration": 0.1, "offset": 0, "channel": None}
    answer = {"role": "assistant", "content": "はい。"}

    def shard(more: dict[str, Any]) -> Path:
        data = {"messages": [{"role": "user", "content": [{**part, **more}]}, answer]}
        return write_tar([("a.json", _json(data)), ("a.0.wav", tone(0.1))])

    build_index(shard({}))
    with pytest.raises(
        DataError, match=r"record 'a': an audio part tells with .* of a part of 0\.wav, but the clips"
    ):
        build_index(shard(told))
