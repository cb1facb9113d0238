from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from torch.utils.data import DataLoader

from kikimimi.data.shards import check, store
from kikimimi.data.shards.check import ShardCheck
from kikimimi.data.shards.index import SUFFIX, ShardIndex
from kikimimi.data.shards.indexing import build_index, index_shards
from kikimimi.data.shards.pattern import expand
from kikimimi.data.shards.record import Record
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import DataError, RequestError, StorageError

Shard = Callable[..., Path]


class Server(ThreadingHTTPServer):
    """Serves a folder; `faults` are the next answers to requests for shards."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.ranges = True
        self.faults: list[int | Literal["break off", "too much"]] = []
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        name = self.path.rpartition("/")[2]
        server.asked.append((self.path, self.headers["Range"]))
        fault = server.faults.pop(0) if server.faults and name.endswith(".tar") else None
        path = server.folder / name
        if isinstance(fault, int) or not path.is_file():
            self.send_response(fault if isinstance(fault, int) else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content, status = path.read_bytes(), 200
        if server.ranges and (span := self.headers["Range"]):
            first, last = span.removeprefix("bytes=").split("-")
            content, status = content[int(first) : int(last) + 1 + (fault == "too much")], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "break off":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(store, "FIRST_PAUSE", 0.0)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody is there
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server(tmp_path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def remote_shards(server: Server, shard: Shard) -> Shards:
    for number in range(2):
        build_index(shard(3, f"train-{number}.tar"))
    return Shards("speech", f"{server.url}/train-{{0..1}}.tar")


def test_reads_ranges_of_a_web_server(server: Server, remote_shards: Shards, tmp_path: Path) -> None:
    local = Shards("speech", f"{tmp_path}/train-{{0..1}}.tar")
    assert remote_shards.digest == local.digest
    assert sorted(server.asked) == [(f"/train-{number}.tar{SUFFIX}", None) for number in range(2)]
    server.asked.clear()
    record = remote_shards.read(4)
    assert (record.key, record.json, record.audio) == _content(local.read(4))
    begin, end = int(local.offsets[4]), int(local.offsets[4] + local.sizes[4])
    assert server.asked == [("/train-1.tar", f"bytes={begin}-{end - 1}")]
    assert remote_shards.where(4) == f"{server.url}/train-1.tar, byte {begin}, record 'train-1-1'"
    assert [_content(remote_shards.read(row)) for row in range(6)] == [
        _content(local.read(row)) for row in range(6)
    ]


def _content(record: Record) -> tuple[str, dict[str, Any], dict[str, bytes]]:
    return record.key, record.json, record.audio


def test_worker_processes_connect_anew(remote_shards: Shards) -> None:
    wanted = [remote_shards.read(row).key for row in range(6)]  # this process has a connection now

    # The reading stands in collate_fn: that runs in the workers.
    loader: DataLoader[Any] = DataLoader(
        range(6),  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=remote_shards.read,  # type: ignore[arg-type]
        num_workers=2,
        multiprocessing_context=multiprocessing.get_context("fork"),
    )
    assert [record.key for record in loader] == wanted
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert [record.key for record in pool.map(remote_shards.read, range(6))] == wanted
    assert remote_shards.read(0).key == wanted[0]  # and it is still good


@pytest.mark.parametrize("fault", [503, 500, 429, 408, "break off"])
def test_transient_faults_are_tried_again(server: Server, remote_shards: Shards, fault: Any) -> None:
    server.faults = [fault, fault]
    assert remote_shards.read(1).key == "train-0-1"
    assert not server.faults


def test_pauses_grow(server: Server, remote_shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(store, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.faults = [503] * 4
    remote_shards.read(1)
    assert len(pauses) == 4
    assert all(2**i / 2 <= pause <= 2**i for i, pause in enumerate(pauses))


@pytest.mark.parametrize(
    ("faults", "kind", "message"),
    [
        ([503] * 5, StorageError, r"train-0\.tar: cannot be read \(5 attempts\): ClientResponseError: 503"),
        (["break off"] * 5, StorageError, r"cannot be read \(5 attempts\): ClientPayloadError"),
        ([404], RequestError, r"train-0\.tar: not found"),
        ([403], RequestError, r"train-0\.tar: access is denied .* credentials"),
        ([400], StorageError, r"cannot be read \(1 attempt\): ClientResponseError: 400"),
        (["too much"], RequestError, r"does not serve byte ranges"),
    ],
)
def test_lasting_faults(
    server: Server, remote_shards: Shards, faults: list[Any], kind: type[Exception], message: str
) -> None:
    server.faults = faults
    with pytest.raises(kind, match=message) as caught:
        remote_shards.read(1)
    assert not isinstance(caught.value, DataError)  # so that no policy passes over records because of it
    assert server.url in str(caught.value)
    assert remote_shards.read(1).key == "train-0-1"


def test_nobody_there(server: Server, remote_shards: Shards) -> None:
    server.shutdown()
    server.server_close()
    # A connection may be open still; what is asked for over it is answered, or not.
    with pytest.raises(StorageError, match=r"cannot be read \(5 attempts\): "):
        Shards("speech", "http://127.0.0.1:9/train-0.tar")


def test_server_without_ranges(server: Server, remote_shards: Shards) -> None:
    server.ranges = False
    with pytest.raises(RequestError, match="does not serve byte ranges, and a whole shard is never fetched"):
        remote_shards.read(1)
    assert remote_shards.read(0).key == "train-0-0"  # the beginning comes without them


def test_shard_that_is_not_the_indexed_one(server: Server, remote_shards: Shards, tmp_path: Path) -> None:
    path = tmp_path / "train-0.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(remote_shards.offsets[2]) + 100])
    with pytest.raises(DataError, match=r"record 'train-0-2': the shard ends \d+ bytes too early"):
        remote_shards.read(2)
    path.write_bytes(whole.replace(b"text", b"test"))
    with pytest.raises(DataError, match="the bytes are not those that were indexed"):
        remote_shards.read(1)


def test_missing_and_malformed_indexes(server: Server, remote_shards: Shards, tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"gone\.tar\.index\.safetensors: not found. Every shard needs its index beside it"
    ):
        Shards("speech", f"{server.url}/gone.tar")
    (tmp_path / f"train-1.tar{SUFFIX}").write_bytes(b"no index")
    with pytest.raises(DataError, match=r"train-1\.tar\.index\.safetensors: is malformed .* upload both"):
        Shards("speech", f"{server.url}/train-{{0..1}}.tar")
    with pytest.raises(RequestError, match="Index the shard where it is a local file, before uploading"):
        index_shards([f"{server.url}/train-0.tar"])


def test_check(
    server: Server, remote_shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_ROWS", 1)
    names = [f"{server.url}/{name}.tar" for name in ("train-0", "gone", "train-1")]
    to_do = ShardCheck(names)
    assert to_do.records == 6
    server.asked.clear()
    report = to_do.run()
    assert (report.shards, report.records) == (3, 6)
    assert [(item.shard, item.offset, item.key) for item in report.problems] == [(names[1], 0, "")]
    assert report.problems[0].reason.startswith(f"{names[1]}{SUFFIX}: not found. Every shard needs its index")
    assert len([path for path, span in server.asked if path.endswith(SUFFIX)]) == 2  # one for each shard
    (tmp_path / "train-0.tar").unlink()
    report = ShardCheck(names).run()
    assert report.records == 3
    assert [(item.shard, item.offset, item.key) for item in report.problems] == [
        (name, 0, "") for name in names[:2]
    ]
    assert report.problems[0].reason == f"{names[0]}: not found"
    server.faults = [503] * 5
    with pytest.raises(StorageError, match=r"train-1\.tar: cannot be read \(5 attempts\)"):
        ShardCheck(names[2:]).run()


def test_proxies_of_the_environment_are_used(
    server: Server, remote_shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    assert ShardIndex.load("http://shards.example/train-0.tar").key(0) == "train-0-0"
    assert server.asked[-1][0] == f"http://shards.example/train-0.tar{SUFFIX}"


class Bucket(MemoryFileSystem):  # type: ignore[misc]
    """An object store, as s3fs would show it."""

    protocol = "s3"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("s3://").strip("/")


def test_object_stores_list_and_read(shard: Shard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fsspec.registry import _registry

    monkeypatch.setitem(_registry, "s3", Bucket)
    monkeypatch.setattr(store, "_systems", {})
    monkeypatch.setattr(store, "FIRST_PAUSE", 0.0)
    bucket = Bucket()
    for number in range(2):
        path = shard(3, f"train-{number}.tar")
        for file in (path, build_index(path)):
            bucket.pipe_file(f"s3://bucket/data/{file.name}", file.read_bytes())
    names = [f"s3://bucket/data/train-{number}.tar" for number in range(2)]
    assert expand("s3://bucket/data/train-*.tar") == names
    shards = Shards("speech", "s3://bucket/*/train-{0..1}.tar")
    assert list(shards.shards) == names
    local = Shards("speech", f"{tmp_path}/train-*.tar")
    assert [_content(shards.read(row)) for row in range(6)] == [_content(local.read(row)) for row in range(6)]
    with pytest.raises(RequestError, match=r"nothing matches s3://bucket/none-\*\.tar"):
        expand("s3://bucket/none-*.tar")
    with pytest.raises(RequestError, match=r"s3://bucket/data/train-2\.tar\.index\.safetensors: not found"):
        Shards("speech", "s3://bucket/data/train-2.tar")

    def denied(*_: Any, **__: Any) -> bytes:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(Bucket, "cat_file", denied)
    with pytest.raises(RequestError, match=r"train-0\.tar: access is denied \(Forbidden\)"):
        shards.read(1)


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("s3://b/x.tar", "s3fs", "s3fs"),
        ("gs://b/x.tar", "gcsfs", "gcsfs"),
        ("abfs://b/x.tar", "adlfs", "adlfs"),
    ],
)
def test_missing_driver_is_named(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(store, "_systems", {})
    with pytest.raises(RequestError, match=rf"needs the package '{package}'.* pip install '{package}'"):
        Shards("speech", url)
