"""The process that serves: until a signal asks it to end, and what was begun is answered."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from kikimimi.console.hosts import is_loopback
from kikimimi.console.signals import STOP_SIGNALS
from kikimimi.errors import RequestError
from kikimimi.serving.connection import connection_of
from kikimimi.serving.limits import Limits

_BACKLOG = 2048


class Server(uvicorn.Server):
    """A server of one application.

    Args:
        app: The application.
        listening: What `listen` has returned; it is closed in the end.
        limits: How long connections wait for their clients.
        drain_seconds: How long what was begun may go on once the server is to end [s].
        ready: Function that is called with the server's URL once it listens.
    """

    def __init__(
        self,
        app: FastAPI,
        listening: socket.socket,
        limits: Limits,
        *,
        drain_seconds: float,
        ready: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=connection_of(limits),
                log_level="error",  # a client that speaks no HTTP is told, and nobody else
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(drain_seconds),
                lifespan="on",
                ws="none",
            )
        )
        self._ready, self._listening = ready, listening
        address, port, *_ = listening.getsockname()
        self.url = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal ends it."""
        super().run(sockets or [self._listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say so."""
        await super().startup(sockets)
        self._ready(self.url)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals end the server, and nothing else: uvicorn would send them again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listen(host: str, port: int) -> socket.socket:
    """Open a port, on which clients can connect from then on, and wait until they are answered.

    Args:
        host: Address to listen on.
        port: Number of the port; 0 takes a free one.

    Raises:
        RequestError: The system refuses.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        said = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise RequestError(f"--host {host} --port {port}: cannot listen there: {said}") from error


def check_host(host: str, api_key: str | None) -> None:
    """Check that what others can reach asks for a key.

    Raises:
        RequestError: Others can reach it, and it has no key.
    """
    if api_key is None and not is_loopback(host):
        raise RequestError(
            f"--host {host}: others can reach it, and anybody could use it: set a key in the environment "
            "variable KIKIMIMI_API_KEY, or serve on 127.0.0.1"
        )
