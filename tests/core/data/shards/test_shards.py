from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kikimimi.data.shards import store
from kikimimi.data.shards.index import index_path
from kikimimi.data.shards.indexing import build_index
from kikimimi.data.shards.pattern import expand
from kikimimi.data.shards.shards import NameColumn, Shards
from kikimimi.errors import DataError, RequestError, StorageError

Shard = Callable[..., Path]


@pytest.fixture
def dataset(shard: Shard, tmp_path: Path) -> Shards:
    for number, records in enumerate((2, 3, 1)):
        build_index(shard(records, f"train-{number:06d}.tar"))
    return Shards("speech", str(tmp_path / "train-{000000..000002}.tar"))


def test_lays_shards_end_to_end(dataset: Shards) -> None:
    assert len(dataset) == 6
    np.testing.assert_allclose(dataset.seconds, [0.5, 0.6, 0.5, 0.6, 0.7, 0.5])
    assert dataset.characters.tolist() == [1, 2, 1, 2, 3, 1]
    assert dataset.clips.tolist() == [1] * 6
    keys = [
        "train-000000-0",
        "train-000000-1",
        "train-000001-0",
        "train-000001-1",
        "train-000001-2",
        "train-000002-0",
    ]
    assert [dataset.key(row) for row in range(6)] == keys
    assert [dataset.read(row).key for row in (5, 0, 4, 1)] == [keys[row] for row in (5, 0, 4, 1)]
    assert dataset.read(3).json == {"text": "ああ", "language": "ja"}
    assert len(dataset.sha256(3)) == 64
    assert len({dataset.sha256(row) for row in range(6)}) == 6
    for row in (6, -1):
        with pytest.raises(IndexError, match=f"speech: row {row} of 6"):
            dataset.read(row)


def test_digest_depends_on_the_order(dataset: Shards, tmp_path: Path) -> None:
    again = Shards("other", str(tmp_path / "train-*.tar"))
    turned = Shards("speech", str(tmp_path / "train-00000{1,0,2}.tar"))
    assert again.digest == dataset.digest != turned.digest


def test_may_be_sent_to_other_processes(dataset: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.read(0)
    copy = pickle.loads(pickle.dumps(dataset))
    assert not copy._store._descriptors
    assert copy.read(4) == dataset.read(4)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(dataset.read, [2, 5]) == [dataset.read(2), dataset.read(5)]
    monkeypatch.setattr(store, "OPEN_FILES", 1)
    for row in (0, 2, 5, 0):
        dataset.read(row)
    assert len(copy._store._descriptors) == 1


def test_changed_bytes_are_found_when_read(dataset: Shards, tmp_path: Path) -> None:
    path = tmp_path / "train-000001.tar"
    data = bytearray(path.read_bytes())
    data[int(dataset.offsets[3]) + 600] ^= 1
    path.write_bytes(data)
    assert dataset.read(2).key == "train-000001-0"
    with pytest.raises(
        DataError, match=r"record 'train-000001-1': the bytes are not those that were indexed"
    ):
        dataset.read(3)


def test_shard_that_shrinks_or_goes(dataset: Shards, tmp_path: Path) -> None:
    path = tmp_path / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"record 'train-000001-2': the shard ends \d+ bytes too early"):
        dataset.read(4)
    (tmp_path / "train-000002.tar").unlink()
    with pytest.raises(StorageError, match=r"train-000002\.tar: cannot be read: No such file"):
        dataset.read(5)


def test_no_record_at_all(shard: Shard, tmp_path: Path) -> None:
    build_index(shard(0, "empty.tar"))
    with pytest.raises(RequestError, match=r"speech: the shards .*empty\.tar hold no record"):
        Shards("speech", str(tmp_path / "empty.tar"))


def test_missing_index_is_named(dataset: Shards, tmp_path: Path) -> None:
    index_path(tmp_path / "train-000001.tar").unlink()
    with pytest.raises(RequestError, match=r"train-000001\.tar: has no index"):
        Shards("speech", str(tmp_path / "*.tar"))


def test_expands_braces_and_wildcards(tmp_path: Path) -> None:
    names = [f"train-{number:03d}.tar" for number in (8, 9, 10, 11)] + ["extra.tar", "v1-2.tar", "v2-2.tar"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "train-008.tar.index.safetensors").touch()

    def found(pattern: str) -> list[str]:
        return [Path(path).name for path in expand(f"{tmp_path}/{pattern}")]

    assert found("train-{008..011}.tar") == names[:4]
    assert found("train-0{10..11}.tar") == names[2:4]
    assert found("{train-009,extra}.tar") == ["train-009.tar", "extra.tar"]
    assert found("v{1..2}-{2..2}.tar") == ["v1-2.tar", "v2-2.tar"]
    assert found("train-*.tar") == names[:4]
    assert found("extra.tar") == ["extra.tar"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("pipe:cat x.tar", "pipe:cat x.tar: pipes are refused; shards are files or URLs"),
        ("ftp://example.org/x.tar", "not read through 'ftp'. Protocols: abfs, az, gcs, gs, hf, http, https"),
        ("htps://example.org/x.tar", r"not read through 'htps'. Did you mean 'https'\?"),
        ("file:///data/x.tar", "give the path itself: /data/x.tar"),
        ("zip://x.tar::https://example.org/x.zip", "chained URLs .* are refused"),
        ("https://a:secret@example.org/x.tar", "https://...@example.org: a name or password in a URL"),
        ("https://example.org/train-*.tar", "a web server does not list its files.* with braces"),
        ("https://example.org/x.tar?token=1", "a web server does not list its files"),
        ("s3://bucket/x.zip", "s3://bucket/x.zip is not a shard"),
        (
            "{tmp}/train-{{000..002}}.tar",
            r"train-\{{000\.\.002\}}\.tar: shard {tmp}/train-001\.tar does not exist",
        ),
        ("{tmp}/none-*.tar", r"nothing matches {tmp}/none-\*\.tar"),
        ("{tmp}", r"is a folder. Its shards are: {tmp}/\*\.tar"),
        ("{tmp}/train-*", "notes is not a shard"),
        ("{tmp}/{{train-000,train-*}}.tar", r"names {tmp}/train-000\.tar twice"),
        ("{tmp}/train-{{000..}}.tar", "is neither a range"),
        ("{tmp}/train-{{000..002.tar", "a brace is not closed or not opened"),
        ("{tmp}/train-{{2..1}}.tar", "runs backwards"),
    ],
)
def test_refuses_patterns(tmp_path: Path, pattern: str, message: str) -> None:
    (tmp_path / "train-000.tar").touch()
    (tmp_path / "train-notes").touch()
    with pytest.raises(RequestError, match=message.format(tmp=tmp_path)):
        expand(pattern.format(tmp=tmp_path))


def test_codes_of_several_shards_become_one(
    write_tar: Callable[..., Path], tone: Callable[..., bytes], tmp_path: Path
) -> None:
    said: dict[str, list[tuple[str | None, str | None]]] = {
        "x": [("ja", "CC0-1.0"), (None, None)],
        "y": [("en", "MIT"), ("ja", "CC0-1.0"), ("de", None)],
    }
    for name, records in said.items():
        members = []
        for number, (language, license_) in enumerate(records):
            data = {"text": "a", "language": language, "meta": {"license": license_} if license_ else {}}
            key = f"{name}あ{number}"
            members += [(f"{key}.json", json.dumps(data).encode()), (f"{key}.0.wav", tone(0.1))]
        build_index(write_tar(members, f"{name}.tar"))
    shards = Shards("speech", str(tmp_path / "{x,y}.tar"))
    assert shards.language_names == ("de", "en", "ja")
    assert shards.license_names == ("CC0-1.0", "MIT")

    def names(codes: Any, known: tuple[str, ...]) -> list[str | None]:
        return [None if code < 0 else known[code] for code in codes.tolist()]

    wanted = [pair for records in said.values() for pair in records]
    assert names(shards.languages, shards.language_names) == [language for language, _ in wanted]
    assert names(shards.licenses, shards.license_names) == [license_ for _, license_ in wanted]
    assert shards.languages.dtype == shards.licenses.dtype == np.int16
    assert [shards.key(row) for row in range(5)] == ["xあ0", "xあ1", "yあ0", "yあ1", "yあ2"]
    for column in ("offsets", "sizes", "seconds", "characters", "clips", "longest", "clip_seconds"):
        assert len(getattr(shards, column)) == 5
        assert getattr(shards, column).base is None  # not a view that keeps another copy alive


def test_more_names_than_codes_is_an_error(dataset: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    column = NameColumn()
    column.append(np.zeros(1, np.int16), tuple(map(str, range(32_000))))
    with pytest.raises(ValueError, match="more than 32767 different names"):
        column.append(np.zeros(1, np.int16), tuple(map(str, range(32_000, 33_000))))

    def too_many(*_: Any) -> None:
        raise ValueError("more than 32767 different names")

    monkeypatch.setattr(NameColumn, "append", too_many)
    with pytest.raises(
        DataError, match=r"train-000000\.tar: languages or licences: more than 32767 .* used so?"
    ):
        Shards("speech", str(Path(dataset.shards[0])))
