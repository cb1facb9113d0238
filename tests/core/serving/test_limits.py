"""What a server does not take on, and what becomes of clients that go away."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from tests.core.serving.by_hand import ByHand, answer
from tests.core.serving.sounds import audio_file, noise

from kikimimi.errors import RequestError
from kikimimi.run.folder import RunFolder
from kikimimi.serving.app import build_app
from kikimimi.serving.connection import Connection
from kikimimi.serving.limits import Limits
from kikimimi.serving.server import Server, check_host, listen
from kikimimi.serving.service import Service

Start = Callable[..., tuple[str, ByHand, Service]]
WaitFor = Callable[[Callable[[], bool]], None]
ROUTE = "/v1/audio/transcriptions"
SLOW = pytest.mark.fault(
    "Clients of the server: slow, silent, or gone",
    "told (408, 503, 504) or let go; the place and the memory are free",
)
MUCH = pytest.mark.fault(
    "Clients of the server: too many, too large, too long",
    "429 with Retry-After, or 413, before it is decoded",
)
WHO = pytest.mark.fault(
    "Clients of the server: without the key, or by a name of others", "401 or 403; nothing is read"
)
WRONG = pytest.mark.fault(
    "Clients of the server: what is no request, or no such path", "told; nothing is logged"
)
CHAT = {"model": "small", "messages": [{"role": "user", "content": "x"}]}


def transcribe(
    url: str, seconds: float = 0.5, content: bytes | None = None, **options: Any
) -> httpx.Response:
    file = audio_file(noise(seconds)) if content is None else content
    return httpx.post(f"{url}{ROUTE}", files={"file": file}, data={"model": "small"}, timeout=60, **options)


@MUCH
def test_one_request_too_many(by_hand: Start, wait_for: WaitFor) -> None:
    url, engine, service = by_hand(max_requests=3)
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(transcribe, url) for _ in range(3)]
        engine.reply(2)
        got = transcribe(url)
        assert (got.status_code, got.headers["retry-after"]) == (429, "1")
        assert got.json()["error"]["type"] == "rate_limit_error"
        assert httpx.get(f"{url}/health").json() == {"status": "ok", "model": "small"}
        assert "kikimimi_requests_in_flight 3.0" in httpx.get(f"{url}/metrics").text
        for number in range(3):
            answer(engine.reply(number), "x")
        assert [one.result().status_code for one in asked] == [200] * 3
    wait_for(lambda: service.load.requests == 0)


def test_who_waits_for_a_place_gets_one(by_hand: Start, wait_for: WaitFor) -> None:
    """Two places, five requests: no more than two are decoded and with the engine at a time."""
    url, engine, service = by_hand(max_rows=1)
    with ThreadPoolExecutor(5) as threads:
        asked = [threads.submit(transcribe, url) for _ in range(5)]
        for number in range(5):
            reply = engine.reply(number)
            assert len([one for one in engine.asked if not one.done]) <= 2
            answer(reply, "x")
        assert [one.result().json()["text"] for one in asked] == ["x"] * 5
    wait_for(lambda: not service.asker.places.locked())


def test_who_was_answered_waits_for_nobody(by_hand: Start) -> None:
    """With two places and five requests, an answer is sent when it is there, not after others are."""
    url, engine, _ = by_hand(max_rows=1)
    with ThreadPoolExecutor(5) as threads:
        asked = [threads.submit(transcribe, url) for _ in range(5)]
        for number in range(5):
            answer(engine.reply(number), "x")
            done, asked_still = wait(asked, 30, FIRST_COMPLETED)
            assert [one.result().json()["text"] for one in done] == ["x"]
            asked = list(asked_still)


@MUCH
def test_an_engine_that_is_full(by_hand: Start) -> None:
    url, engine, _ = by_hand()
    engine._most = 0
    got = transcribe(url)
    assert (got.status_code, got.headers["retry-after"]) == (429, "1")


@MUCH
@pytest.mark.parametrize("announced", [True, False])
def test_uploads_have_an_end(by_hand: Start, wait_for: WaitFor, announced: bool) -> None:
    """Counted as they come: a client that does not announce the length gets no further."""
    url, _, service = by_hand(max_upload_bytes=1 << 20)
    content = audio_file(noise(40))
    if announced:
        got = transcribe(url, content=content)
    else:
        form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        got = httpx.post(
            f"{url}{ROUTE}",
            content=iter([form, content[:900_000], content[900_000:]]),
            headers={"content-type": "multipart/form-data; boundary=x"},
        )
    assert got.status_code == 413
    assert got.json()["error"]["message"] == (
        "the request is larger than 1 MB (1,048,576 bytes), the most that is taken here "
        "(kikimimi serve --max-megabytes)"
    )
    got = httpx.post(f"{url}/v1/chat/completions", content=iter([b" " * 600_000] * 2))
    assert got.status_code == 413
    wait_for(lambda: service.load.held == 0)


@MUCH
def test_all_uploads_together_have_an_end(by_hand: Start, wait_for: WaitFor) -> None:
    url, engine, service = by_hand(max_upload_bytes=20_000)
    with ThreadPoolExecutor(40) as threads:
        asked = [threads.submit(transcribe, url) for _ in range(24)]
        for number in range(24):
            engine.reply(number)
        assert 24 * 16_000 < service.load.held < 20 * 20_000
        got = transcribe(url)
        assert (got.status_code, got.headers["retry-after"]) == (429, "1")
        assert "uploads of others" in got.json()["error"]["message"]
        for number in range(24):
            answer(engine.reply(number), "x")
        assert all(one.result().status_code == 200 for one in asked)
    wait_for(lambda: service.load.held == 0)


@MUCH
def test_audio_has_an_end(by_hand: Start) -> None:
    """A small file of much audio is refused by its header, before any of it is decoded."""
    url, engine, _ = by_hand(max_audio_seconds=60)
    bomb = audio_file(np.zeros(16000 * 300, np.float32), "FLAC")
    assert len(bomb) < 50_000
    got = transcribe(url, content=bomb)
    assert got.status_code == 413
    assert got.json()["error"]["message"] == (
        "file: lasts 5.0 minutes (300.0 s); at most 60 s are taken here (kikimimi serve --max-seconds)"
    )
    data = base64.b64encode(audio_file(noise(40))).decode()
    parts = [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}] * 2
    body = {"model": "small", "messages": [{"role": "user", "content": parts}]}
    got = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert got.status_code == 413
    assert "messages: lasts 1.3 minutes (80.0 s); at most 60 s" in got.json()["error"]["message"]
    assert engine.asked == []


@SLOW
def test_what_is_not_answered_in_time(by_hand: Start, wait_for: WaitFor) -> None:
    url, engine, service = by_hand(timeout_seconds=0.5)
    got = transcribe(url)
    assert (got.status_code, got.headers["retry-after"]) == (503, "1")
    assert "nobody has begun to answer within the time" in got.json()["error"]["message"]
    assert engine.reply().cancelled
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(transcribe, url)
        engine.reply(1).prompt_tokens = 7
        got = asked.result()
    assert (got.status_code, got.json()["error"]["code"]) == (504, "timeout")
    assert engine.reply(1).cancelled
    # A stream that has begun says so in its last event.
    threading.Thread(target=lambda: engine.reply(2).give("so")).start()
    got = httpx.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True})
    events = got.text.strip().split("\n\n")
    assert json.loads(events[1][6:])["choices"][0]["delta"] == {"content": "so"}
    assert json.loads(events[-1][6:])["error"]["code"] == "timeout"
    assert engine.reply(2).cancelled
    wait_for(lambda: not service.asker.places.locked())


@SLOW
def test_an_upload_that_does_not_come_in_time(by_hand: Start, wait_for: WaitFor) -> None:
    url, _, service = by_hand(timeout_seconds=0.5)
    with connected(url) as client:
        client.sendall(head(1000) + b"{")
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")
    wait_for(lambda: service.load.requests == 0)


def trickled(client: socket.socket, *parts: bytes) -> bytes:
    """Send parts, and then a letter at a time until the server has enough; return what it said."""
    for part in parts:
        client.sendall(part)
    said = b""
    client.settimeout(0.05)
    while True:
        try:
            client.sendall(b"x")
            if not (got := client.recv(1000)):
                return said
            said += got
        except TimeoutError:
            continue
        except OSError:  # closed
            return said


@SLOW
def test_a_head_that_never_ends(by_hand: Start) -> None:
    """Of the first request, or of a later one; a connection that says nothing is closed as well."""
    url, _, _ = by_hand(head_seconds=0.3)
    with connected(url) as client:
        assert trickled(client, b"GET /health HTTP/1.1\r\nHost: [::1]\r\nX: ").startswith(b"HTTP/1.1 408 ")
    with connected(url) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: [::1]\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        said = trickled(client, b"GET /health HTTP/1.1\r\nHost: [::1]\r\nX: ").partition(b"HTTP/1.1 408 ")[2]
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "timeout"
    with connected(url) as client:
        assert b"".join(iter(lambda: client.recv(1000), b"")).startswith(b"HTTP/1.1 408 ")


@SLOW
def test_a_body_that_nobody_reads_and_never_ends(by_hand: Start) -> None:
    url, _, _ = by_hand("s3cret-key", timeout_seconds=0.3)
    with connected(url) as client:
        assert trickled(client, head(1000)).startswith(b"HTTP/1.1 401 ")


@SLOW
def test_who_does_not_read_is_let_go(by_hand: Start, wait_for: WaitFor) -> None:
    url, engine, service = by_hand(timeout_seconds=0.5)
    threading.Thread(target=lambda: answer(engine.reply(), *["x" * 1_000_000] * 20)).start()
    form: dict[str, Any] = {"files": {"file": audio_file(noise(0.5))}}
    with httpx.stream("POST", f"{url}{ROUTE}", data={"model": "small", "stream": "true"}, **form) as got:
        assert got.status_code == 200
        wait_for(lambda: service.load.requests == 0)
        said = service.metrics.text().decode()
        assert f'kikimimi_clients_gone_total{{route="{ROUTE}"}} 1.0' in said


@SLOW
def test_who_does_not_read_the_end_is_let_go(by_hand: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is whole, and of which the system takes only a part, is not waited for for ever."""
    open_port = socket.create_server

    def small(*args: Any, **options: Any) -> socket.socket:
        listening = open_port(*args, **options)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return listening

    ended, end = threading.Event(), Connection.connection_lost

    def lost(connection: Connection, error: Exception | None) -> None:
        end(connection, error)
        ended.set()

    monkeypatch.setattr("socket.create_server", small)
    monkeypatch.setattr(Connection, "connection_lost", lost)
    url, engine, _ = by_hand(timeout_seconds=0.5)
    body = json.dumps(CHAT).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        client.sendall(head(len(body)) + body)
        answer(engine.reply(), "x" * 50_000)
        assert ended.wait(30)


def connected(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), 30)


def head(length: int) -> bytes:
    return f"POST /v1/chat/completions HTTP/1.1\r\nHost: [::1]\r\nContent-Length: {length}\r\n\r\n".encode()


@SLOW
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_row(by_hand: Start, wait_for: WaitFor, stream: bool) -> None:
    url, engine, service = by_hand()
    body = json.dumps({**CHAT, "stream": stream}).encode()
    with connected(url) as client:
        client.sendall(head(len(body)) + body)
        reply = engine.reply()
        reply.give("so")
        if stream:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
        assert not reply.cancelled
    wait_for(lambda: reply.cancelled and service.load.requests == service.load.held == 0)
    said = service.metrics.text().decode()
    assert 'kikimimi_clients_gone_total{route="/v1/chat/completions"} 1.0' in said


@SLOW
def test_a_client_that_goes_away_while_it_sends(
    by_hand: Start, wait_for: WaitFor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of it: no memory, no place, no file."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    url, engine, service = by_hand()
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    top = f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n"
    with connected(url) as client:
        client.sendall(top.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + form)
        client.sendall(bytes(4_000_000))
        wait_for(lambda: service.load.held > 3_900_000)
        assert list(tmp_path.iterdir()) == []
        assert not [link for link in open_files() if link.startswith(str(tmp_path))]
    wait_for(lambda: service.load.requests == service.load.held == 0)
    assert engine.asked == []


def open_files() -> list[str]:
    folder = Path("/proc/self/fd")
    return [os.readlink(link) for link in folder.iterdir() if link.is_symlink()]


@SLOW
def test_who_waits_for_a_place_and_goes_away(by_hand: Start, wait_for: WaitFor) -> None:
    url, engine, service = by_hand(max_rows=1)
    body = json.dumps(CHAT).encode()
    with connected(url) as one, connected(url) as two:
        for client in (one, two):
            client.sendall(head(len(body)) + body)
        engine.reply(1)
        with connected(url) as three:
            three.sendall(head(len(body)) + body)
            wait_for(lambda: service.load.requests == 3)
        wait_for(lambda: service.load.requests == 2)
    wait_for(lambda: service.load.requests == 0)
    assert all(reply.cancelled for reply in engine.asked)
    assert len(engine.asked) == 2
    wait_for(lambda: not service.asker.places.locked())


@WHO
def test_a_key(by_hand: Start, wait_for: WaitFor) -> None:
    url, engine, service = by_hand("s3cret-key")
    for given in ({}, {"authorization": "Bearer s3cret-ke"}, {"authorization": "Basic s3cret-key"}):
        for path in ("/v1/models", "/metrics", "/v1/nowhere"):
            got = httpx.get(f"{url}{path}", headers=given)
            assert (got.status_code, got.headers["www-authenticate"]) == (401, "Bearer")
            assert "s3cret-key" not in got.text
        got = transcribe(url, headers=given)
        assert (got.status_code, got.json()["error"]["type"]) == (401, "authentication_error")
    assert engine.asked == []
    wait_for(lambda: service.load.held == 0)
    assert httpx.get(f"{url}/health").status_code == 200
    right = {"authorization": "bearer s3cret-key"}
    (model,) = httpx.get(f"{url}/v1/models", headers=right).json()["data"]
    assert (model["id"], model["owned_by"]) == ("small", "kikimimi")
    assert httpx.get(f"{url}/v1/models/small", headers=right).json() == model
    assert "s3cret" not in httpx.get(f"{url}/metrics", headers=right).text


@WHO
@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "user@evil.example", "", "["]
)
def test_names_of_others_are_refused(url: str, name: str) -> None:
    """A page of the web cannot read answers by giving its own name the address of this machine."""
    got = httpx.get(f"{url}/v1/models", headers={"host": name})
    assert (got.status_code, got.json()["error"]["code"]) == (403, "wrong_host")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost:80", "LOCALHOST", "[::1]:9"])
def test_names_of_this_machine_are_taken(url: str, name: str) -> None:
    assert httpx.get(f"{url}/v1/models", headers={"host": name}).status_code == 200


def test_with_a_key_any_name_is_taken(by_hand: Start) -> None:
    url, _, _ = by_hand("s3cret-key")
    headers = {"host": "speech.example", "authorization": "Bearer s3cret-key"}
    assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200


@WRONG
def test_paths_that_are_not_there(url: str) -> None:
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/models/gpt-4o", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
    ):
        got = httpx.request(method, f"{url}{path}")
        assert got.status_code == status
        assert got.json()["error"]["message"]
        allowed = {"/v1/chat/completions": "POST", "/v1/models": "GET, HEAD"}.get(path)
        assert status == 404 or (got.headers["allow"] == allowed and allowed in got.text)
    assert "/v1/chat/completions" in httpx.get(f"{url}/").json()["error"]["message"]


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/models", "/v1/models/small"])
def test_what_can_be_got_has_a_head(url: str, path: str) -> None:
    whole, head = (httpx.request(method, f"{url}{path}") for method in ("GET", "HEAD"))
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


@WRONG
def test_nothing_is_logged_of_what_clients_do_wrong(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """They are told, and fill no log."""
    log = logging.StreamHandler(io.StringIO())
    logging.getLogger("uvicorn").addHandler(log)
    form = {"content-type": "multipart/form-data; boundary=x"}
    for body in (b"", b"--y\r\n", b"--x--\r\n and so on", b"--x\r\n\r\nz\r\n--x--\r\n--x--\r\nz"):
        assert httpx.post(f"{url}{ROUTE}", content=body, headers=form).status_code == 400
    for said in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"):
        with connected(url) as client:
            client.sendall(said)
            assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    upgrade = {"connection": "upgrade", "upgrade": "websocket"}
    assert httpx.get(f"{url}/health", headers=upgrade).status_code == 200
    logging.getLogger("uvicorn").removeHandler(log)
    assert (log.stream.getvalue(), capfd.readouterr().err) == ("", "")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_hosts_that_need_no_key(host: str) -> None:
    check_host(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.2", "example.org", ""])
def test_hosts_that_need_a_key(host: str) -> None:
    check_host(host, "key")
    with pytest.raises(RequestError, match="others can reach it, and anybody could use it: set a key"):
        check_host(host, None)


def test_a_signal_ends_it_after_what_was_begun(run: RunFolder) -> None:
    """SIGTERM comes while an answer is being made: it comes whole, and no new request is taken."""
    service = Service(run, limits=Limits(), device=torch.device("cpu"), cut="quietest")
    engine = ByHand(service.engine.engine)
    service.engine = service.asker.engine = engine  # type: ignore[assignment]
    got: list[httpx.Response] = []
    clients: list[threading.Thread] = []

    def ask(url: str) -> None:
        got.append(httpx.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True}, timeout=60))

    def work(url: str) -> None:
        client = threading.Thread(target=ask, args=(url,))
        client.start()
        reply = engine.reply()
        reply.give("so")
        os.kill(os.getpid(), signal.SIGTERM)
        while not server.should_exit:
            pass
        answer(reply, " it is")
        client.join()

    def ready(url: str) -> None:
        clients.append(threading.Thread(target=work, args=(url,)))
        clients[0].start()

    server = Server(build_app(service), listen("127.0.0.1", 0), Limits(), drain_seconds=30, ready=ready)
    before = signal.getsignal(signal.SIGTERM)
    server.run()
    clients[0].join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert '"content": " it is"' in got[0].text
    assert got[0].text.endswith("data: [DONE]\n\n")
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


@pytest.mark.slow
def test_the_command(run: RunFolder) -> None:
    """It answers, ends with 0 at SIGTERM, and never prints the key."""
    environment = {**os.environ, "KIKIMIMI_API_KEY": "s3cret-key"}
    command = [sys.executable, "-m", "kikimimi.cli", "serve", str(run.path), "--port", "0", "--name", "mine"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split()[4].removesuffix("/v1;")
        assert line == f"'mine' is served at {url}/v1; Ctrl-C or SIGTERM ends it\n"
        headers = {"authorization": "Bearer s3cret-key"}
        form: dict[str, Any] = {"files": {"file": audio_file(noise(3.0))}, "data": {"model": "mine"}}
        assert httpx.post(f"{url}{ROUTE}", headers=headers, timeout=60, **form).status_code == 200
        assert httpx.post(f"{url}{ROUTE}", timeout=60, **form).status_code == 401
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert err.endswith("what was begun is answered; ended\n")
    assert "s3cret" not in err
