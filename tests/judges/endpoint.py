"""A real endpoint on this machine that says what a test wants, and a judge that asks it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, enumerate as enumerate_threads
from typing import Any

from kikimimi import Chosen

KEY = "sk-Never-Shown-123"


@dataclass(frozen=True)
class Said:
    """An answer of HTTP.

    Attributes:
        body: Bytes, or what JSON is made of.
        status: Its status.
        headers: Further headers.
        missing: Bytes that the header promises, and that never come.
        after: How long the endpoint waits first [s].
    """

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    after: float = 0.0


def completion(text: str | None, finish: str = "stop", tokens: tuple[int, int] = (100, 7)) -> Said:
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return Said({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})


def scored(score: Any, reason: str = "so it is") -> Said:
    return completion(json.dumps({"reason": reason, "score": score}))


def texts_of(request: dict[str, Any]) -> dict[str, str]:
    """Return the texts that a judge is shown, by their names, in order."""
    said = request["messages"][-1]["content"]
    return {name: json.loads(text) for name, text in re.findall(r"^([a-z]+): (\".*\")$", said, re.MULTILINE)}


class Endpoint:
    """An endpoint; `answer` is given a request and how many came before it.

    Attributes:
        requests: What it was asked.
        headers: Headers of each.
        most: Most requests that were under way at once.
        under_way: How many are now.
    """

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any], int], Said] = lambda request, number: scored(7)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.most = self.under_way = 0
        self._lock = Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # which holds back each second piece for 40 ms

            def do_POST(self) -> None:
                with endpoint._lock:
                    endpoint.under_way += 1
                    endpoint.most = max(endpoint.most, endpoint.under_way)
                    number = len(endpoint.requests)
                    request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                    endpoint.requests.append(request)
                    endpoint.headers.append(dict(self.headers))
                    endpoint.paths.append(self.path)
                said = endpoint.answer(request, number)
                time.sleep(said.after)
                with endpoint._lock:
                    endpoint.under_way -= 1
                body = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body) + said.missing))
                self.end_headers()
                self.wfile.write(body)
                if said.missing:
                    self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that no longer waits

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @staticmethod
    def settle() -> None:
        """Wait for requests that were under way when their judge was stopped."""
        for thread in enumerate_threads():
            if thread.name == "judge":
                thread.join(5)

    def judge(self, **options: Any) -> Chosen:
        quick = {"first_pause": 0.001, "longest_pause": 0.01, "retries": 3, "timeout": 5.0}
        given = {"model": "judge-1", "base_url": self.url, "key_variable": "JUDGE_KEY", **quick, **options}
        return Chosen.of("judge", "openai", **given)
