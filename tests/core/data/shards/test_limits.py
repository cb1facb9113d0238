"""What is in a shard has a limit that is checked before it is read."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kikimimi.data.shards import index as index_module, indexing, record
from kikimimi.data.shards.check import ShardCheck
from kikimimi.data.shards.index import ShardIndex, index_path
from kikimimi.data.shards.indexing import build_index
from kikimimi.data.shards.record import grouped, make_record, read_members
from kikimimi.errors import DataError

pytestmark = pytest.mark.fault("Limits: shards and their indexes", "refused before they are read")

GIGABYTE = 1_000_000_000
TEXT = json.dumps({"text": "はい"}).encode()


class Counting(io.FileIO):
    """A file that counts what is read of it."""

    read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(-1 if size is None else size)
        self.read_bytes += len(content)
        return content


def _sparse(path: Path, name: str, size: int) -> Path:
    """Write a tar with one member that takes no place on the disk, and one after it."""
    info, after = tarfile.TarInfo(name), tarfile.TarInfo("b.txt")
    info.size, after.size = size, 3
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.seek(-(-size // 512) * 512, os.SEEK_CUR)
        file.write(after.tobuf(tarfile.GNU_FORMAT) + b"abc".ljust(512, b"\0") + bytes(1024))
    return path


@pytest.mark.parametrize(
    ("name", "size", "problem"),
    [
        ("a.json", 3 * GIGABYTE, "a.json has 3000000000 bytes; the JSON of a record has at most 16777216"),
        ("a.txt", GIGABYTE, "a.txt has 1000000000 bytes; a transcript has at most 1000000"),
        ("a.0.flac", 3 * GIGABYTE, "a.0.flac has 3000000000 bytes; a clip has at most 536870912"),
        ("a.pkl", 5 * GIGABYTE, "member 'a.pkl' is neither KEY.json, KEY.txt nor a clip"),
        ("a.npy", 5 * GIGABYTE, "member 'a.npy' is neither KEY.json, KEY.txt nor a clip"),
        ("a.pt", 5 * GIGABYTE, "member 'a.pt' is neither KEY.json, KEY.txt nor a clip"),
        ("../a.flac", 400_000_000, "member name '../a.flac' leaves the shard"),
    ],
)
def test_no_member_is_read_beyond_its_limit(tmp_path: Path, name: str, size: int, problem: str) -> None:
    path = _sparse(tmp_path / "x.tar", name, size)
    with Counting(path) as file:
        first, after = read_members(file, whole=True)
        assert file.read_bytes < 10_000
    assert (first.problem or "").startswith(problem)
    assert (first.content, after.content) == (b"", b"abc")
    with pytest.raises(DataError, match="nothing in the shard can be used"):
        build_index(path, skip=True)


def _tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("limit", "value"), [("MAX_RECORD", 6_000), ("MAX_MEMBERS", 4)])
def test_a_record_has_a_largest_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(record, limit, value)
    clips = [(f"a.{number}.wav", bytes(1000)) for number in range(9)]
    path = _tar(tmp_path / "x.tar", [("a.json", TEXT), *clips, ("b.json", TEXT), ("b.0.wav", b"x")])
    with path.open("rb") as file:
        large, small = grouped(read_members(file, whole=True))
    assert sum(len(member.content) for member in large) < 6_000
    assert [member.suffix for member in small] == ["json", "0.wav"]
    with pytest.raises(DataError, match=r"record 'a': a record holds at most 1\.07 GB in 10,000 members"):
        make_record(large, "x.tar")


def test_what_is_refused_anyway_is_named_before_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "MAX_RECORD", 6_000)
    path = _tar(tmp_path / "x.tar", [("a.json", TEXT), ("a.pkl", bytes(9000)), ("a.0.wav", b"x")])
    with pytest.raises(DataError, match=r"member 'a\.pkl' is neither"):
        build_index(path)


def test_an_index_has_a_largest_size(shard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard(3)
    build_index(path)
    with index_path(path).open("r+b") as file:
        file.truncate(20 * GIGABYTE)
    with pytest.raises(
        DataError, match=r"safetensors: is 20 GB large; at most 268 MB are read\. Make it again"
    ):
        ShardIndex.load(path)
    report = ShardCheck([str(path)]).run()
    assert (report.records, "is 20 GB large" in report.problems[0].reason) == (3, True)
    for module in (index_module, indexing):
        monkeypatch.setattr(module, "MAX_INDEX", 500)
    with pytest.raises(DataError, match=r"its index has .* kB; at most 500 B are read\. Split the shard"):
        build_index(path)


def test_an_index_that_asks_for_a_giant_record(shard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shard(3)
    build_index(path)
    monkeypatch.setattr(index_module, "MAX_RECORD", 1000)
    with pytest.raises(DataError, match=r"a record has \d+ bytes; at most 1000 are read"):
        ShardIndex.load(path)


def test_an_index_whose_header_is_nested_without_end(shard: Any) -> None:
    path = shard(3)
    build_index(path)
    for header in (b'{"__metadata__":' + b"[" * 100_000, b"[" * 100_000):
        index_path(path).write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(DataError, match="is malformed"):
            ShardIndex.load(path)
    index_path(path).write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(DataError, match="is malformed"):
        ShardIndex.load(path)


@pytest.mark.parametrize("first", ["json", "wav"])
def test_records_are_held_once(tmp_path: Path, first: str) -> None:
    clip = io.BytesIO()
    soundfile.write(clip, np.zeros(4_000_000, dtype=np.float32), 16_000, format="WAV", subtype="FLOAT")
    members = {"json": TEXT, "wav": clip.getvalue()}
    shard = tmp_path / "large.tar"
    with tarfile.open(shard, "w") as tar:
        for key in "abc":
            for suffix in sorted(members, reverse=first == "wav"):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(members[suffix])
                tar.addfile(info, io.BytesIO(members[suffix]))
    size = len(members["wav"])
    held_by_next = first == "wav"  # its first member is read before it is known that another record begins
    tracemalloc.start()
    try:
        build_index(shard)
        assert tracemalloc.get_traced_memory()[1] < (1.5 + held_by_next) * size
        tracemalloc.reset_peak()
        assert ShardCheck([str(shard)]).run().records == 3
        assert tracemalloc.get_traced_memory()[1] < 2.5 * size  # the bytes that were hashed, and the clip
    finally:
        tracemalloc.stop()
