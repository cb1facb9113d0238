from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kikimimi.data.index import ShardIndex, build_index, index_path
from kikimimi.data.index_file import COLUMNS, read_columns
from kikimimi.errors import DataError, RequestError

Shard = Callable[..., Path]


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
