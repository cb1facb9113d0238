from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import re
import struct
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save

from kikimimi.data.shards.check import ShardCheck
from kikimimi.data.shards.index import COLUMNS, ShardIndex, index_path, read_columns, write_columns
from kikimimi.data.shards.indexing import build_index
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import DamagedError, DataError, RequestError

Shard = Callable[..., Path]
WriteTar = Callable[..., Path]
Tone = Callable[..., bytes]


def test_index_tells_where_each_record_lies(shard: Shard) -> None:
    path = shard(5)
    assert build_index(path) == path.with_name("train-000000.tar.index.safetensors") == index_path(path)
    index = ShardIndex.load(path)
    assert len(index) == 5
    assert [index.key(i) for i in range(5)] == [f"train-000000-{i}" for i in range(5)]
    np.testing.assert_allclose(index.seconds, [0.5, 0.6, 0.7, 0.8, 0.9])
    assert index.seconds.dtype == np.float32
    assert index.clips.tolist() == [1] * 5
    assert index.characters.tolist() == [1, 2, 3, 4, 5]
    assert index.offsets[0] == 0
    assert (index.offsets[1:] == (index.offsets + index.sizes)[:-1]).all()
    data = path.read_bytes()
    for i in range(5):
        span = data[index.offsets[i] : index.offsets[i] + index.sizes[i]]
        assert hashlib.sha256(span).digest() == index.hashes[i].tobytes()
    assert not list(path.parent.glob("*.tmp"))


def test_same_shard_gives_the_same_bytes(shard: Shard) -> None:
    path = shard(3)
    first = build_index(path).read_bytes()
    assert build_index(path).read_bytes() == first
    header, columns = read_columns(first)
    assert {name: column.dtype for name, column in columns.items()} == COLUMNS
    assert header["shard"] == "train-000000.tar"
    assert header["bytes"] == path.stat().st_size


def test_digest_follows_the_content_not_the_name(shard: Shard) -> None:
    first, moved = shard(2), shard(2, "other.tar")
    moved.write_bytes(first.read_bytes())
    longer = shard(3, "longer.tar")
    for path in (first, moved, longer):
        build_index(path)
    assert ShardIndex.load(first).digest == ShardIndex.load(moved).digest != ShardIndex.load(longer).digest


def test_missing_shard_and_missing_index(shard: Shard, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"gone\.tar: no such shard"):
        ShardIndex.load(tmp_path / "gone.tar")
    with pytest.raises(RequestError, match=r"gone\.tar: no such shard"):
        build_index(tmp_path / "gone.tar")
    path = shard(1)
    with pytest.raises(RequestError, match=f"has no index. Make it with: kikimimi data index {path}"):
        ShardIndex.load(path)


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (Path.mkdir, "is not a file"),
        (os.mkfifo, "is not a file"),
        (lambda path: path.symlink_to("nowhere"), "is a symbolic link that leads nowhere"),
    ],
    ids=["folder", "pipe", "link"],
)
def test_what_is_no_file_in_the_place_of_an_index_is_named(shard: Shard, put: Any, said: str) -> None:
    """It was said that the shard has none, and to make it, which what lies there prevents."""
    path = shard(1)
    put(index_path(path))
    again = f"Delete it. Make it again with: kikimimi data index {path}"
    with pytest.raises(DamagedError, match=re.escape(f"{index_path(path)}: {said}. {again}")):
        ShardIndex.load(path)
    report = ShardCheck([str(path)]).run()
    assert [said in problem.reason for problem in report.problems] == [True]


def test_stale_index(shard: Shard) -> None:
    path = shard(2)
    build_index(path)
    with path.open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(DataError, match=r"is stale: made when .* Make it again with: kikimimi data index"):
        ShardIndex.load(path)


def test_index_of_an_older_version(shard: Shard) -> None:
    path = shard(2)
    old = path.with_name(f"{path.name}.index.jsonl")
    old.write_text("{}")
    with pytest.raises(RequestError, match=r"its index train-000000\.tar\.index\.jsonl is of an older"):
        ShardIndex.load(path)
    build_index(path)
    assert not old.exists()
    assert len(ShardIndex.load(path)) == 2


def test_damaged_shards(shard: Shard) -> None:
    path = shard(3)
    whole = path.read_bytes()
    build_index(path)
    middle = int(ShardIndex.load(path).offsets[1])

    path.write_bytes(whole[: middle + 700])
    with pytest.raises(
        DataError, match=rf"byte {middle}: member 'train-000000-1\.json' breaks off; the shard is truncated"
    ):
        build_index(path)
    path.write_bytes(whole[:middle])
    with pytest.raises(DataError, match=f"byte {middle}: the shard stops without the mark that ends a tar"):
        build_index(path)
    path.write_bytes(whole[:middle] + b"\x01" * 512 + whole[middle + 512 :])
    with pytest.raises(DataError, match=f"byte {middle}: a damaged header; what follows it cannot be read"):
        build_index(path)
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(DataError, match="byte 0: not an uncompressed tar, or its first header is damaged"):
        build_index(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="byte 0: the shard stops without the mark that ends a tar"):
        build_index(path)


def test_failed_indexing_leaves_the_old_index(shard: Shard) -> None:
    path = shard(1)
    before = build_index(path).read_bytes()
    path.write_bytes(b"garbage" * 1000)
    with pytest.raises(DataError):
        build_index(path)
    assert index_path(path).read_bytes() == before
    assert not list(path.parent.glob("*.tmp"))


def _conversation(*clips: str) -> bytes:
    heard = [{"type": "audio", "audio": clip} for clip in clips]
    data = {
        "messages": [{"role": "user", "content": heard}, {"role": "assistant", "content": "はい。"}],
        "meta": {"language": "ja", "license": "CC0-1.0"},
    }
    return json.dumps(data, ensure_ascii=False).encode()


def test_columns_of_what_records_say(write_tar: WriteTar, tone: Tone) -> None:
    spoken = json.dumps(
        {"text": "hello", "language": "en", "meta": {"license": "CC-BY-4.0", "language": "x"}}
    )
    written = json.dumps(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    )
    path = write_tar(
        [
            ("a.json", _conversation("0.wav", "1.wav")),
            ("a.0.wav", tone(0.5)),
            ("a.1.wav", tone(1.25)),
            ("b.json", written.encode()),
            ("c.json", spoken.encode()),
            ("c.0.wav", tone(0.75)),
        ]
    )
    build_index(path)
    index = ShardIndex.load(path)
    assert index.shard == str(path)
    assert index.clip_seconds.tolist() == [0.5, 1.25, 0.75]
    assert index.clips.tolist() == [2, 0, 1]
    assert index.longest.tolist() == [1.25, 0.0, 0.75]
    assert index.seconds.tolist() == [1.75, 0.0, 0.75]
    assert index.language_names == ("en", "ja")
    assert index.languages.tolist() == [1, -1, 0]
    assert index.license_names == ("CC-BY-4.0", "CC0-1.0")
    assert index.licenses.tolist() == [1, -1, 0]
    assert index.characters.dtype == index.clips.dtype == np.int32
    assert not index.rejected


Columns = dict[str, Any]


def _shift(columns: Columns, header: Columns) -> None:
    columns["offsets"] = columns["offsets"] - 512  # the first record now begins before the shard


def _past_the_end(columns: Columns, header: Columns) -> None:
    columns["sizes"][-1] += 1 << 20


def _past_all_numbers(columns: Columns, header: Columns) -> None:
    columns["sizes"][-1] = np.iinfo(np.int64).max - 511


def _set(name: str, value: Any, row: Any = 1) -> Callable[[Columns, Columns], None]:
    def change(columns: Columns, header: Columns) -> None:
        columns[name][row] = value

    return change


def _replace(name: str, make: Callable[[Any], Any]) -> Callable[[Columns, Columns], None]:
    def change(columns: Columns, header: Columns) -> None:
        columns[name] = make(columns[name])

    return change


def _head(name: str, value: Any) -> Callable[[Columns, Columns], None]:
    def change(columns: Columns, header: Columns) -> None:
        header[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_shift, "records overlap, or reach past the end of the shard"),
        (_past_the_end, "records overlap, or reach past the end"),
        (_past_all_numbers, "records overlap, or reach past the end"),
        (_set("offsets", 512), "records overlap"),
        (_set("offsets", 1 << 40, row=-1), "reach past the end"),
        (_set("sizes", -1024), "records overlap"),
        (_set("sizes", 0), "records overlap"),
        (_set("sizes", 1025, row=-1), "records overlap"),
        (_set("seconds", np.nan), "seconds holds what is not a length"),
        (_set("clip_seconds", -1.0), "clip_seconds holds what is not a length"),
        (_set("characters", -1), "characters holds what is not a length"),
        (_set("clip_ends", 99), "clip_ends and clip_seconds do not fit together"),
        (_set("clip_ends", -1, row=0), "clip_ends and clip_seconds do not fit"),
        (_set("key_ends", 0), "key_ends and key_bytes do not fit together"),
        (_set("key_ends", 1 << 40, row=-1), "key_ends and key_bytes do not fit"),
        (_set("languages", 1), "languages holds codes without a name"),
        (_set("licenses", -2), "licenses holds codes without a name"),
        (_set("key_bytes", 0xFF), "codec can't decode byte 0xff"),
        (
            _set("key_bytes", np.frombuffer("あ".encode(), np.uint8), slice(13, 16)),
            "a key ends within a character",
        ),
        (_replace("sizes", lambda old: old[:-1]), r"sizes has the shape \(2,\), not \(3,\)"),
        (_replace("hashes", lambda old: old[:, :31]), r"hashes has the shape \(3, 31\), not \(3, 32\)"),
        (_replace("offsets", lambda old: old.reshape(3, 1)), r"offsets has the shape \(3, 1\), not"),
        (_replace("characters", lambda old: old.astype(np.int64)), "characters is of type I64, not I32"),
        (_head("format", "other"), "not an index of a shard"),
        (_head("version", 3), "is of version 3, not 2"),
        (_head("languages", "ja"), "its header lacks 'languages'"),
        (_head("rejected", [["a", "b", "c"]]), "its header lacks 'rejected'"),
        (_head("bytes", "many"), "its header lacks 'bytes'"),
        (_head("digest", "0" * 64), "its digest is not that of its columns: damaged"),
    ],
)
def test_crafted_indexes(shard: Shard, change: Callable[[Columns, Columns], None], message: str) -> None:
    path = shard(3)
    header, columns = read_columns(build_index(path).read_bytes())
    columns = {name: column.copy() for name, column in columns.items()}
    honest = header["digest"]
    change(columns, header)
    if header["digest"] == honest:  # as a careful forger would
        del header["digest"]  # written anew
    index_path(path).write_bytes(write_columns(columns, header))
    with pytest.raises(DataError, match=f"safetensors: .*{message}.*Make it again with"):
        ShardIndex.load(path)


def test_indexes_that_are_no_index(shard: Shard) -> None:
    path = shard(3)
    whole = build_index(path).read_bytes()
    other = {
        b"": "not safetensors",
        b"garbage" * 50: "not safetensors",
        whole[:-1]: "not safetensors",
        save({"a": np.zeros(3)}): "not an index of a shard",
        save({"a": np.zeros(3)}, {"kikimimi": "[]"}): "not an index of a shard",
        save({"a": np.zeros(3)}, {"kikimimi": "{"}): "is malformed",
    }
    for content, message in other.items():
        index_path(path).write_bytes(content)
        with pytest.raises(DataError, match=message):
            ShardIndex.load(path)
    rng = Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        index_path(path).write_bytes(damaged)
        try:
            index = ShardIndex.load(path)
        except DataError:
            continue
        # Only what does not matter may differ: the name of the shard in the header.
        assert index.digest == read_columns(whole)[0]["digest"]
        assert damaged[-1000:] == whole[-1000:]


class _Fault(NamedTuple):
    """A shard of three records, of which the second is bad; and what is said of it."""

    members: Callable[[Tone], list[tuple[Any, bytes]]]
    reason: str


class _Marker:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


_MARKER = Path(tempfile.gettempdir()) / "kikimimi-was-unpickled"
_TEXT = json.dumps({"text": "あ", "language": "ja"}).encode()


def _link(kind: bytes, name: str = "b.0.wav") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


def _wav_that_lies(tone: Tone) -> bytes:
    data = bytearray(tone(0.5))
    size = data.index(b"data") + 4
    data[size : size + 4] = struct.pack("<I", 1 << 24)
    return bytes(data)


_FAULTS = {
    "bad JSON": _Fault(lambda tone: [("b.json", b'{"text": '), ("b.0.wav", tone())], r"b\.json is not JSON"),
    "half a character": _Fault(
        lambda tone: [("b.json", b'{"text": "\\ud83d"}'), ("b.0.wav", tone())], "is not JSON: .*surrogates"
    ),
    "missing JSON": _Fault(lambda tone: [("b.0.wav", tone())], r"b\.json is missing; the record has 0\.wav"),
    "missing clip": _Fault(lambda tone: [("b.json", _TEXT)], "the labelled clip has no audio"),
    "placeholder without its clip": _Fault(
        lambda tone: [("b.json", _conversation("0.wav", "1.wav")), ("b.0.wav", tone())],
        r"names the clip 1\.wav, but the record has 0\.wav",
    ),
    "empty text": _Fault(lambda tone: [("b.json", b'{"text": " "}'), ("b.0.wav", tone())], "text: empty"),
    "lying header": _Fault(
        lambda tone: [("b.json", _TEXT), ("b.0.wav", _wav_that_lies(tone))], "0\\.wav: breaks off: its header"
    ),
    "zero samples": _Fault(
        lambda tone: [("b.json", _TEXT), ("b.0.wav", tone(0.0))], r"0\.wav: holds no samples"
    ),
    "not audio": _Fault(
        lambda tone: [("b.json", _TEXT), ("b.0.wav", b"words" * 99)], r"0\.wav: cannot be decoded"
    ),
    "parent folder": _Fault(lambda tone: [("../b.json", _TEXT)], r"'\.\./b\.json' leaves the shard"),
    "absolute name": _Fault(lambda tone: [("/etc/b.json", _TEXT)], "'/etc/b.json' leaves the shard"),
    "symbolic link": _Fault(
        lambda tone: [("b.json", _TEXT), (_link(tarfile.SYMTYPE), b"")], r"'b\.0\.wav' is a link, a device"
    ),
    "hard link": _Fault(
        lambda tone: [("b.json", _TEXT), (_link(tarfile.LNKTYPE), b"")], "is a link, a device"
    ),
    "device": _Fault(lambda tone: [("b.json", _TEXT), (_link(tarfile.CHRTYPE), b"")], "is a link, a device"),
    **{
        f"pickle in .{kind}": _Fault(
            lambda tone, kind=kind: [  # type: ignore[misc]
                ("b.json", _TEXT),
                ("b.0.wav", tone()),
                (f"b.{kind}", pickle.dumps(_Marker(_MARKER))),
            ],
            rf"'b\.{kind}' is neither KEY\.json, KEY\.txt nor a clip .* is never decoded",
        )
        for kind in ("pkl", "pickle", "pth", "pyd", "cls", "npy")
    },
}


@pytest.mark.parametrize("name", _FAULTS)
def test_bad_records_are_errors_or_left_out(write_tar: WriteTar, tone: Tone, name: str) -> None:
    def good(key: str) -> list[tuple[Any, bytes]]:
        return [(f"{key}.json", _TEXT), (f"{key}.0.wav", tone(0.5))]

    _MARKER.unlink(missing_ok=True)
    path = write_tar([*good("a"), *_FAULTS[name].members(tone), *good("c")])
    with pytest.raises(DataError, match=rf"train-000000\.tar, byte \d+.*{_FAULTS[name].reason}"):
        build_index(path)
    assert not index_path(path).exists()
    build_index(path, skip=True)
    index = ShardIndex.load(path)
    assert [index.key(row) for row in range(len(index))] == ["a", "c"]
    (left,) = index.rejected
    assert re.search(_FAULTS[name].reason, left.reason)
    assert str(path) not in left.reason
    assert left.offset == int(index.offsets[0] + index.sizes[0])
    shards = Shards("speech", str(path))
    assert [shards.read(row).key for row in range(2)] == ["a", "c"]
    assert [item.where for item in shards.rejected] == [f"{path}, byte {left.offset}, record {left.key!r}"]
    assert build_index(path, skip=True).read_bytes() == index_path(path).read_bytes()
    assert not _MARKER.exists()


def test_key_that_comes_back(write_tar: WriteTar, tone: Tone) -> None:
    members = [
        (f"{key}.{kind}", _TEXT if kind == "json" else tone()) for key in "aba" for kind in ("json", "wav")
    ]
    path = write_tar(members)
    with pytest.raises(
        DataError, match="record 'a': the key occurs twice, or its members do not stand together"
    ):
        build_index(path)
    build_index(path, skip=True)
    index = ShardIndex.load(path)
    assert [index.key(row) for row in range(len(index))] == ["a", "b"]
    assert [item.key for item in index.rejected] == ["a"]


def test_shard_that_breaks_off_keeps_what_is_whole(shard: Shard) -> None:
    path = shard(4)
    build_index(path)
    whole, intact = path.read_bytes(), ShardIndex.load(path)
    third = int(intact.offsets[2])

    def rejected(data: bytes) -> list[tuple[str, int, str]]:
        path.write_bytes(data)
        build_index(path, skip=True)
        index = ShardIndex.load(path)
        assert [index.key(row) for row in range(len(index))] == ["train-000000-0", "train-000000-1"]
        assert (index.hashes == intact.hashes[:2]).all()
        return [(item.key, item.offset, item.reason) for item in index.rejected]

    # within the third record's clip: one entry says that, and of which record
    assert rejected(whole[: third + 2000]) == [
        ("train-000000-2", third + 1024, "member 'train-000000-2.0.flac' breaks off; the shard is truncated")
    ]
    # between its members
    assert rejected(whole[: third + 1024]) == [
        ("train-000000-2", third + 1024, "the shard stops without the mark that ends a tar: truncated?")
    ]
    assert rejected(whole[:third]) == [
        ("", third, "the shard stops without the mark that ends a tar: truncated?")
    ]
    assert rejected(whole[:third] + b"\x01" * 512 + whole[third + 512 :]) == [
        ("", third, "a damaged header; what follows it cannot be read")
    ]


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (2000, "member 'train-000000-2.0.flac' breaks off; the shard is truncated"),
        (1024, "the shard stops without the mark that ends a tar: truncated?"),
        (1100, "a header breaks off; the shard is truncated"),
    ],
)
def test_what_cut_a_record_is_said_before_what_it_lacks(shard: Shard, cut: int, reason: str) -> None:
    path = shard(4)
    build_index(path)
    third = int(ShardIndex.load(path).offsets[2])
    index_path(path).unlink()
    path.write_bytes(path.read_bytes()[: third + cut])
    said = f"train-000000.tar, byte {third + 1024}, record 'train-000000-2': {reason}"
    with pytest.raises(DataError, match=re.escape(said)):
        build_index(path)


def test_a_malformed_record_before_a_break_is_listed_too(write_tar: WriteTar, tone: Tone) -> None:
    members = [("b.json", _TEXT), ("b.0.wav", tone()), ("c.json", _TEXT), ("c.0.wav", tone())]
    path = write_tar([("a.json", b"no JSON"), *members])
    path.write_bytes(path.read_bytes()[:40_000])
    build_index(path, skip=True)
    index = ShardIndex.load(path)
    assert [index.key(row) for row in range(len(index))] == ["b"]
    assert [(item.key, item.reason.split(";")[0]) for item in index.rejected] == [
        ("a", "a.json is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("c", "member 'c.0.wav' breaks off"),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lambda whole: gzip.compress(whole), "not an uncompressed tar, or its first header is damaged"),
        (lambda whole: b"no tar at all " * 100, "not an uncompressed tar, or its first header is damaged"),
        (lambda whole: b"x" + whole[1:], "not an uncompressed tar, or its first header is damaged"),
        (lambda whole: b"", "the shard stops without the mark that ends a tar: truncated?"),
        (lambda whole: whole[:2000], "member 'train-000000-0.0.flac' breaks off; the shard is truncated"),
    ],
    ids=["gzip", "text", "header", "empty", "cut"],
)
def test_a_shard_without_one_good_record_gets_no_index(
    shard: Shard, data: Callable[[bytes], bytes], reason: str
) -> None:
    path = shard(2)
    path.write_bytes(data(path.read_bytes()))
    with pytest.raises(DataError, match=rf"train-000000\.tar, byte .*{re.escape(reason)}; nothing in the sh"):
        build_index(path, skip=True)
    assert not index_path(path).exists()


def test_a_shard_of_malformed_records_gets_no_index(write_tar: WriteTar) -> None:
    path = write_tar([("a.json", _TEXT), ("b.json", _TEXT)])
    with pytest.raises(DataError, match=r"byte 0, record 'a': the labelled clip has no audio \(and 1 more\)"):
        build_index(path, skip=True)
    assert not index_path(path).exists()


def test_damage_anywhere_is_a_data_error(shard: Shard) -> None:
    path = shard(3)
    whole, rng = path.read_bytes(), Random(1)
    errors = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(20):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            build_index(path, skip=True)
        except DataError as error:
            if "nothing in the shard can be used" not in str(error):
                raise
            errors += 1
            continue
        index = ShardIndex.load(path)
        assert len(index) >= 1
        try:
            build_index(path)
        except DataError:
            errors += 1
            assert index.rejected
        else:
            assert not index.rejected
    assert errors > 30
