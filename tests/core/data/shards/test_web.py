"""Servers that nobody vouches for: endless, slow, silent, compressed, sending elsewhere."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from kikimimi.data.shards import index, store, web
from kikimimi.data.shards.index import ShardIndex
from kikimimi.data.shards.store import fetch, read_range
from kikimimi.errors import DataError, RequestError, StorageError

pytestmark = pytest.mark.fault(
    "Limits: servers",
    "endless, slow, compressed and redirected answers are refused, with the rate or the host",
)

MEGABYTE = 1_000_000
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    answer: Answer
    sent = 0

    def __init__(self, *given: Any) -> None:
        self.over = threading.Event()
        super().__init__(*given)

    @property
    def port(self) -> int:
        return self.server_port

    def url(self, name: str = "x.tar") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        with contextlib.suppress(OSError):  # the reader has gone
            self.server.answer(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(store, "FIRST_PAUSE", 0.0)
    monkeypatch.delenv(web.REDIRECT_HOSTS, raising=False)
    server = Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def send(content: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content)

    return answer


def endless(request: BaseHTTPRequestHandler) -> None:
    send(b"")(request)
    assert isinstance(request.server, Server)
    while True:
        request.server.sent += request.wfile.write(bytes(100_000))


def trickle(request: BaseHTTPRequestHandler) -> None:
    send(b"", Content_Length="1000")(request)
    while True:
        request.wfile.write(b"x")
        time.sleep(0.05)


def silent(request: BaseHTTPRequestHandler) -> None:
    assert isinstance(request.server, Server)
    request.server.over.wait()


def stalled(request: BaseHTTPRequestHandler) -> None:
    send(b"xxxx", Content_Length="1000")(request)
    silent(request)


def test_an_endless_answer_is_left_at_the_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = endless
    with pytest.raises(DataError, match=r"x\.tar: sends more than 1 MB$"):
        fetch(server.url(), limit=MEGABYTE)
    assert server.sent < 50 * MEGABYTE  # what the sockets hold
    monkeypatch.setattr(index, "MAX_INDEX", MEGABYTE)
    with pytest.raises(DataError, match=r"x\.tar\.index\.safetensors: sends more than 1 MB$"):
        ShardIndex.load(server.url())


def test_large_indexes_are_fetched_one_after_the_other(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "MAX_INDEX", 1000)
    monkeypatch.setattr(index, "MANY", 10)
    at_once: list[int] = []

    def watched(url: str, *, limit: int) -> bytes:
        at_once.append(index._LARGE.locked() * limit)
        return fetch(url, limit=limit)

    monkeypatch.setattr(index, "fetch", watched)
    server.answer = send(b"x" * 11)
    with pytest.raises(DataError, match="is malformed"):
        ShardIndex.load(server.url())
    server.answer = send(b"x" * 10)
    with pytest.raises(DataError, match="is malformed"):
        ShardIndex.load(server.url())
    assert at_once == [0, 1000, 0]


def test_an_announced_length_is_held_against_the_limit_at_once(server: Server) -> None:
    server.answer = send(b"", Content_Length="20000000000")
    with pytest.raises(DataError, match=r"x\.tar: is 20 GB large; at most 1 MB are read$"):
        fetch(server.url(), limit=MEGABYTE)
    server.answer = send(b"abc", Content_Length="3")
    assert fetch(server.url(), limit=3) == b"abc"
    server.answer = send(b"abcd")
    with pytest.raises(DataError, match="sends more than 3 B"):
        fetch(server.url(), limit=3)


def test_nothing_compressed_is_unpacked(server: Server) -> None:
    server.answer = send(gzip.compress(bytes(10 * MEGABYTE)), Content_Encoding="gzip")
    with pytest.raises(
        RequestError, match=r"its server sends it compressed \(gzip\), which is never unpacked"
    ):
        fetch(server.url(), limit=100 * MEGABYTE)


@pytest.mark.parametrize(
    ("answer", "seconds", "said"),
    [
        (trickle, 0.2, r"the server sent \d+ B in [\d.]+ s \([\d.]+ bytes/s\); at least 1 kB a second"),
        (silent, 0.2, r"the server sent 0 B in [\d.]+ s"),
        (stalled, 1.0, r"the server sent 4 B in [\d.]+ s"),
    ],
)
def test_a_server_that_is_too_slow_is_left(
    server: Server, monkeypatch: pytest.MonkeyPatch, answer: Answer, seconds: float, said: str
) -> None:
    monkeypatch.setattr(web, "WATCHED_SECONDS", seconds)
    server.answer = answer
    with pytest.raises(StorageError, match=rf"x\.tar: cannot be read \(2 attempts\): timed out: {said}"):
        fetch(server.url(), limit=MEGABYTE)


def test_a_piece_is_no_longer_than_was_asked_for(server: Server) -> None:
    server.answer = send(b"cdef", 206)
    with pytest.raises(RequestError, match="does not serve byte ranges"):
        read_range(server.url(), 2, 3, 10)
    server.answer = send(b"cde", 206)
    assert read_range(server.url(), 2, 3, 10) == b"cde"
    server.answer = send(b"", 416)
    assert read_range(server.url(), 20, 3, 10) == b""


def _moved(server: Server, to: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        (send(b"here") if request.path == "/there" else send(b"", 302, Location=to))(request)

    return answer


def test_redirects_stay_with_their_host(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = _moved(server, "/there")
    assert fetch(server.url(), limit=10) == b"here"
    other = f"localhost:{server.port}"
    server.answer = _moved(server, f"http://{other}/there")
    with pytest.raises(
        RequestError, match=rf"sends to another host, {other}, .*export {web.REDIRECT_HOSTS}="
    ):
        fetch(server.url(), limit=10)
    for allowed in ("localhost", f"example.org, {other}", "*host", "LOCALHOST"):
        monkeypatch.setenv(web.REDIRECT_HOSTS, allowed)
        assert fetch(server.url(), limit=10) == b"here"
    monkeypatch.setenv(web.REDIRECT_HOSTS, "host,example.org")
    with pytest.raises(RequestError, match="sends to another host"):
        fetch(server.url(), limit=10)
    server.answer = _moved(server, f"http://127.0.0.1:{server.port + 1}/there")  # another server of the host
    with pytest.raises(RequestError, match="sends to another host"):
        fetch(server.url(), limit=10)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_to_other_protocols_are_refused(server: Server, to: str) -> None:
    server.answer = _moved(server, to)
    with pytest.raises(RequestError, match=r"its server sends to .*, which is not read"):
        fetch(server.url(), limit=10)


def test_redirects_in_a_circle_end(server: Server) -> None:
    server.answer = _moved(server, "/again")
    with pytest.raises(RequestError, match="sends elsewhere more than 5 times"):
        fetch(server.url(), limit=10)


def test_what_a_server_says_is_shortened(server: Server) -> None:
    server.answer = lambda handler: handler.send_error(418, "no" * 3000)
    with pytest.raises(StorageError, match=r"418, message='(no)+n? \.\.\. \(5,\d+ more characters\)$"):
        read_range(server.url(), 0, 10, 10)
