from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from kikimimi.cli.data import app
from kikimimi.data.shards.check import ShardCheck
from kikimimi.data.shards.index import ShardIndex, index_path, read_columns, write_columns
from kikimimi.data.shards.indexing import build_index, index_shards
from kikimimi.errors import DataError

pytestmark = pytest.mark.fault(
    "Our files: an index that is not of its shard", "`data check` names the record"
)

Shard = Callable[..., Path]
WriteTar = Callable[..., Path]
Tone = Callable[..., bytes]

_TEXT = json.dumps({"text": "あ"}).encode()


def _not_a_number() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(8000, np.nan, np.float32), 16_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def _cut(flac: bytes) -> bytes:
    return flac[: len(flac) * 2 // 3]


def _found(shard: Path) -> list[tuple[int, str, str]]:
    report = ShardCheck([str(shard)]).run()
    return [(item.offset, item.key, item.reason) for item in report.problems]


def test_what_is_right_has_no_problems(shard: Shard) -> None:
    paths = [shard(3, f"train-{number}.tar") for number in range(2)]
    for path in paths:
        build_index(path)
    check = ShardCheck([str(path) for path in paths])
    assert check.records == 6
    report = check.run(workers=2)
    assert (report.shards, report.records, report.problems) == (2, 6, ())


def test_clips_are_decoded_to_their_end(write_tar: WriteTar, tone: Tone) -> None:
    clips = {"a.0.wav": tone(), "b.0.wav": _not_a_number(), "c.0.flac": _cut(tone(3.0, kind="FLAC"))}
    path = write_tar(
        [member for name, clip in clips.items() for member in ((f"{name[0]}.json", _TEXT), (name, clip))]
    )
    build_index(path)  # reads headers only
    index = ShardIndex.load(path)
    (first, second) = _found(path)
    assert first == (index.offsets[1], "b", "0.wav: 8000 samples are not numbers (NaN or infinite)")
    assert second[:2] == (index.offsets[2], "c")
    assert second[2].startswith("0.flac: ")


def test_every_changed_record_is_found(shard: Shard) -> None:
    path = shard(4)
    build_index(path)
    index = ShardIndex.load(path)
    data = bytearray(path.read_bytes())
    data[index.offsets[1] + 5] ^= 1  # in a header
    data[index.offsets[2] + 2000] ^= 1  # in a clip
    path.write_bytes(data)
    changed = "the bytes are not those that were indexed (SHA-256 differs)"
    assert _found(path) == [
        (index.offsets[1], "train-000000-1", changed),
        (index.offsets[2], "train-000000-2", changed),
    ]


def test_without_an_index_the_tar_itself_is_gone_through(shard: Shard) -> None:
    path = shard(3)
    build_index(path)
    third = int(ShardIndex.load(path).offsets[2])
    whole = path.read_bytes()
    path.write_bytes(whole[: third + 600])
    stale, broken = _found(path)
    assert stale[:2] == (0, "")
    assert "is stale: made when the shard had" in stale[2]
    assert broken == (third, "", "member 'train-000000-2.json' breaks off; the shard is truncated")
    path.write_bytes(whole)
    index_path(path).unlink()
    report = ShardCheck([str(path)]).run()
    assert report.records == 3
    assert [item.reason for item in report.problems] == [
        f"{path}: has no index. Make it with: kikimimi data index {path}"
    ]


def test_what_an_index_leaves_out_is_a_problem(write_tar: WriteTar, tone: Tone) -> None:
    path = write_tar([("a.json", _TEXT), ("a.0.wav", tone()), ("b.json", _TEXT), ("b.pkl", b"\x80")])
    build_index(path, skip=True)
    ((offset, key, reason),) = _found(path)
    assert (offset, key) == (ShardIndex.load(path).sizes[0], "b")
    assert reason.startswith("left out of the index: member 'b.pkl' is neither")


def test_command(tmp_path: Path, shard: Shard) -> None:
    path = shard(2)
    build_index(path)
    shard(2, "other.tar")
    done = CliRunner().invoke(app, ["check", str(path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "2 records in 1 shard, 0 problems" in done.stdout
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    report = tmp_path / "reports" / "check.json"
    arguments = ["check", str(tmp_path / "*.tar"), "--workers", "2", "--json", str(report)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["shard", "byte", "record", "problem"]
    other = tmp_path / "other.tar"
    assert lines[1].split()[:3] == [str(other), "0", f"{other}:"]
    assert lines[2].split(maxsplit=3)[:3] == [str(path), "0", "train-000000-0"]
    assert lines[2].endswith("the bytes are not those that were indexed (SHA-256 differs)")
    assert lines[3] == "4 records in 2 shards, 2 problems"
    written = json.loads(report.read_text(encoding="utf-8"))
    assert written["records"] == 4
    assert written["problems"][1] == {
        "shard": str(path),
        "offset": 0,
        "key": "train-000000-0",
        "reason": "the bytes are not those that were indexed (SHA-256 differs)",
    }


def test_index_names_every_shard_that_fails(shard: Shard, tmp_path: Path) -> None:
    paths = [shard(2, f"train-{number}.tar") for number in range(3)]
    for path in paths[1:]:
        build_index(path)
        path.write_bytes(path.read_bytes()[: int(ShardIndex.load(path).offsets[1])])
    names = [str(path) for path in paths]
    with pytest.raises(
        DataError, match=r"(?s)2 of 3 shards cannot.*train-1\.tar.*train-2\.tar.*index --skip"
    ):
        index_shards(names, workers=2)
    assert len(ShardIndex.load(names[0])) == 2
    report = index_shards(names, skip=True)
    assert (report.shards, report.records) == (3, 4)
    assert report.seconds == pytest.approx(1.1 + 0.5 + 0.5)
    assert len(report.left_out) == 2


def test_a_shard_of_nothing_is_an_error_and_the_others_are_indexed(shard: Shard) -> None:
    whole, nothing = shard(2, "train-0.tar"), shard(2, "train-1.tar")
    nothing.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"1 of 2 shards cannot be indexed:\n.*train-1\.tar, byte 0: the shard"
    ) as said:
        CliRunner().invoke(app, ["index", str(whole), str(nothing), "--skip"], catch_exceptions=False)
    assert "To leave out" not in str(said.value)
    assert len(ShardIndex.load(whole)) == 2
    assert not index_path(nothing).exists()


def test_index_command_lists_what_is_left_out(write_tar: WriteTar, tone: Tone) -> None:
    members = [("a.json", _TEXT), ("a.0.wav", tone())]
    path = write_tar([*members, *((f"b{number}.json", _TEXT) for number in range(25))])
    with pytest.raises(DataError, match="the labelled clip has no audio\nTo leave out"):
        CliRunner().invoke(app, ["index", str(path)], catch_exceptions=False)
    done = CliRunner().invoke(app, ["index", str(path), "--skip"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "1 record, 0:01 of audio in 1 shard\nleft out: 25\n" in done.stdout
    assert f"  {path}, byte " in done.stdout
    assert "record 'b0': the labelled clip has no audio" in done.stdout
    assert "  and 5 more; 'kikimimi data check' lists all" in done.stdout


def _rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Write an index that is sound in itself, but says something else."""
    header, columns = read_columns(index_path(path).read_bytes())
    columns = {name: column.copy() for name, column in columns.items()}
    change(columns, header)
    kept = {name: header[name] for name in ("shard", "bytes", "languages", "licenses", "rejected")}
    index_path(path).write_bytes(write_columns(columns, kept))


def _longer_clip(columns: dict[str, Any], header: dict[str, Any]) -> None:
    columns["clip_seconds"][1] = 2.5


def _longer_record(columns: dict[str, Any], header: dict[str, Any]) -> None:
    columns["seconds"][1] += 1


def _other_key(columns: dict[str, Any], header: dict[str, Any]) -> None:
    columns["key_bytes"][int(columns["key_ends"][1]) - 1] = ord("x")


def _other_text(columns: dict[str, Any], header: dict[str, Any]) -> None:
    columns["characters"][1] = 99


def _other_language(columns: dict[str, Any], header: dict[str, Any]) -> None:
    header["languages"] = ["en", "ja"]
    columns["languages"][:] = [1, 0, 1]


def _fewer_clips(columns: dict[str, Any], header: dict[str, Any]) -> None:
    columns["clip_seconds"] = columns["clip_seconds"][[0, 2]]
    columns["clip_ends"][:] = [1, 1, 2]


def _without_second(columns: dict[str, Any], header: dict[str, Any]) -> None:
    first = int(columns["key_ends"][0])
    columns["key_bytes"] = np.delete(columns["key_bytes"], slice(first, int(columns["key_ends"][1])))
    columns["key_ends"] = np.array([first, len(columns["key_bytes"])])
    columns["clip_ends"] = np.array([1, 2])
    columns["clip_seconds"] = columns["clip_seconds"][[0, 2]]
    for name in ("offsets", "sizes", "seconds", "characters", "languages", "licenses", "hashes"):
        columns[name] = columns[name][[0, 2]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_longer_clip, "its index has 2.500 s as the length of 0.flac, and it is 0.600 s."),
        (_longer_record, "its index has 1.600 s as the length of all clips, and it is 0.600 s."),
        (_other_key, "its index has 'train-000000-x' as the key, and it is 'train-000000-1'."),
        (_other_text, "its index has 99 as the number of characters, and it is 2."),
        (_other_language, "its index has 'en' as the language, and it is 'ja'."),
        (_fewer_clips, "its index has 0 as the number of clips, and it is 1."),
        (_without_second, "member 'train-000000-1.json' is not in the index."),
    ],
)
def test_an_index_that_says_something_else_is_found(shard: Shard, change: Any, reason: str) -> None:
    path = shard(3)
    build_index(path)
    second = int(ShardIndex.load(path).offsets[1])
    _rewrite(path, change)
    ((offset, _, found),) = _found(path)
    assert found == f"{reason} Make it again with: kikimimi data index {path}"
    assert offset == second


def test_what_follows_the_last_record_of_an_index_is_found(shard: Shard) -> None:
    path = shard(3)
    build_index(path)
    last = int(ShardIndex.load(path).offsets[2])

    def without_last(columns: dict[str, Any], header: dict[str, Any]) -> None:
        for name in ("offsets", "sizes", "seconds", "characters", "languages", "licenses", "hashes"):
            columns[name] = columns[name][:2]
        for ends, values in (("clip_ends", "clip_seconds"), ("key_ends", "key_bytes")):
            columns[ends] = columns[ends][:2]
            columns[values] = columns[values][: int(columns[ends][-1])]

    _rewrite(path, without_last)
    ((offset, _, reason),) = _found(path)
    assert (offset, reason[:46]) == (last, "member 'train-000000-2.json' is not in the ind")


def test_the_index_of_another_shard_is_named(shard: Shard) -> None:
    one, other, longer = shard(3, "one-0.tar"), shard(3, "two-0.tar"), shard(30, "six-0.tar")
    for path in (one, other, longer):
        build_index(path)
    assert one.stat().st_size == other.stat().st_size
    shutil.copy(index_path(one), index_path(other))
    ((offset, _, reason),) = _found(other)
    assert (offset, reason.partition(". ")[0]) == (
        0,
        "its index is that of one-0.tar: no record is where it says",
    )
    shutil.copy(index_path(longer), index_path(one))
    message = (
        rf"is the index of another shard: made for six-0\.tar, of {longer.stat().st_size} bytes, and this"
    )
    assert re.search(message, _found(one)[0][2])
    with pytest.raises(DataError, match=message):
        ShardIndex.load(one)


def test_a_renamed_shard_is_sound(shard: Shard) -> None:
    path = shard(3)
    build_index(path)
    index_path(path).rename(index_path(path.with_name("new.tar")))
    assert _found(path.rename(path.with_name("new.tar"))) == []


def test_more_zeros_than_tar_pads_are_warned_of(shard: Shard) -> None:
    path, sound = shard(3), shard(3, "other.tar")
    second = int(ShardIndex.load(str(path)).offsets[1]) if build_index(path) else 0
    content = path.read_bytes()
    path.write_bytes(content[:second] + bytes(40_960 - second))
    summary = index_shards([str(path), str(sound)]).summary()
    zeros = 40_960 - second
    assert (
        f"warning: {path} ends in {zeros:,} bytes of zeros, more than tar pads: were records lost" in summary
    )
    assert summary.count("warning") == 1


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_damaged_index_is_never_believed(shard: Shard, part: float) -> None:
    path = shard(5)
    build_index(path)
    index = index_path(path)
    content = index.read_bytes()
    place = round(part * (len(content) - 1))
    flipped = bytearray(content)
    flipped[place] ^= 1
    for spoilt in (
        content[:place],
        bytes(flipped),
        bytes(len(content)),
        content.decode("latin-1").encode("utf-16"),
    ):
        index.write_bytes(spoilt)
        error, loaded = None, None
        try:
            loaded = ShardIndex.load(path)
        except DataError as raised:
            error = str(raised)
        if loaded is not None:  # in what says nothing of the shard: the name that it had
            assert loaded.made_for != path.name
            continue
        assert error is not None
        assert re.search(r"is malformed|is of version|is stale|of another shard", error)
        assert error.endswith(f"Make it again with: kikimimi data index {path}")


@pytest.mark.fault("Names: files that macOS and Windows add", "passed over")
def test_what_systems_add_is_no_problem(write_tar: WriteTar, tone: Tone) -> None:
    junk = b"\0\5\26\7" + b"\xff" * 30_000
    path = write_tar(
        [
            ("._a.json", junk),
            ("a.json", _TEXT),
            ("._a.0.wav", junk),
            ("a.0.wav", tone()),
            (".DS_Store", junk),
            ("b.json", _TEXT),
            ("b.0.wav", tone()),
            ("__MACOSX/._b.json", junk),
            ("Thumbs.db", junk),
        ]
    )
    summary = index_shards([str(path)]).summary()
    assert summary.startswith("2 records")
    assert "warning" not in summary
    assert _found(path) == []
    report = ShardCheck([str(path)]).run()
    assert report.records == 2


def test_a_record_behind_what_systems_add_is_missed(write_tar: WriteTar, tone: Tone) -> None:
    members = [
        (f"{key}.{suffix}", _TEXT if suffix == "json" else tone())
        for key in "abc"
        for suffix in ("json", "0.wav")
    ]
    path = write_tar([*members[:2], ("._b.json", b"\0\5\26\7"), *members[2:]])
    build_index(path)
    _rewrite(path, _without_second)
    ((_, _, reason),) = _found(path)
    assert reason.startswith("member 'b.json' is not in the index")
