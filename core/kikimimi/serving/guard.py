"""What stands before the routes: the key, the limits, the time-out, and clients that go away."""

from __future__ import annotations

import asyncio
import hmac
import time

import anyio
from starlette.types import ASGIApp, Message as Event, Receive, Scope, Send

from kikimimi.console.hosts import may_call
from kikimimi.serving.limits import HeldBody
from kikimimi.serving.refusal import RefusalError
from kikimimi.serving.service import Service

OPEN = "/health"
"""The one path that asks for no key."""
ROUTES = {"/v1/audio/transcriptions", "/v1/audio/translations", "/v1/chat/completions"}
"""Paths where work is done, and counted."""
_STARTED, _BODY = "http.response.start", "http.response.body"


class Guard:
    """An ASGI application before another.

    Work whose client goes away is cancelled, whatever it waits for; and so its place is free.

    Args:
        app: The other one.
        service: What is served.
        api_key: The key that clients have to give; None lets everybody in.
    """

    def __init__(self, app: ASGIApp, service: Service, api_key: str | None) -> None:
        self._app, self._service = app, service
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or what is no request."""
        if scope["type"] != "http" or scope["path"] == OPEN:
            await self._app(scope, receive, send)
            return
        try:
            self._check_key(scope)
            self._check_name(scope)
            if scope["path"] not in ROUTES:
                await self._app(scope, receive, send)
                return
            self._check_length(scope)
            with self._service.load.request() as body:
                await _Work(self._service, scope, receive, send, body).do(self._app)
        except RefusalError as refusal:
            await refusal.response(scope, receive, send)
            self._service.metrics.ended(
                scope["path"] if scope["path"] in ROUTES else "other", refusal.status, 0
            )

    def _check_key(self, scope: Scope) -> None:
        if self._key is None:
            return
        scheme, _, given = _header(scope, b"authorization").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
            raise RefusalError(
                401,
                "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
            )

    def _check_name(self, scope: Scope) -> None:
        """Refuse names of other machines where no key is asked for."""
        name = _header(scope, b"host").decode("latin-1")
        if self._key is None and not may_call(name):
            raise RefusalError(
                403,
                "without a key, this server is called by 127.0.0.1, localhost or [::1] alone, not by another "
                "name: call it so, or set a key in the environment variable KIKIMIMI_API_KEY",
                code="wrong_host",
            )

    def _check_length(self, scope: Scope) -> None:
        """Refuse at once what is announced to be too long; what is not announced is counted as it comes."""
        announced = _header(scope, b"content-length")
        if announced.isdigit():
            self._service.limits.check_upload(int(announced))


class _Work:
    """One request that is answered."""

    def __init__(self, service: Service, scope: Scope, receive: Receive, send: Send, body: HeldBody) -> None:
        self._service, self._scope, self._body = service, scope, body
        self._receive_next, self._send_next = receive, send
        self._came = asyncio.Event()  # the whole body
        self._begin = self._last_byte = time.monotonic()
        self._status = 0
        self._ended = False

    async def do(self, app: ASGIApp) -> None:
        deadline = asyncio.get_running_loop().time() + self._service.limits.timeout_seconds
        self._scope.setdefault("state", {})["deadline"] = deadline
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, group.cancel_scope)
            await app(self._scope, self._receive, self._send)
            group.cancel_scope.cancel()

    async def _watch(self, scope: anyio.CancelScope) -> None:
        """Give the work up when the client goes away."""
        await self._came.wait()
        while (await self._receive_next())["type"] != "http.disconnect":
            pass
        if not self._ended:
            self._service.metrics.gone(self._scope["path"])
            scope.cancel()

    async def _receive(self) -> Event:
        if self._came.is_set():
            await asyncio.Event().wait()  # for ever: it is watched here
        event = await self._receive_next()
        if event["type"] == "http.disconnect":
            self._service.metrics.gone(self._scope["path"])
        else:
            self._body.add(len(event.get("body", b"")))
            if not event.get("more_body", False):
                self._last_byte = time.monotonic()
                self._came.set()
        return event

    async def _send(self, event: Event) -> None:
        path, now = self._scope["path"], time.monotonic()
        if event["type"] == _STARTED:
            self._status = event["status"]
            if self._status == 200:
                self._service.metrics.first_text(path, now - self._last_byte)
        elif event["type"] == _BODY and not event.get("more_body", False):
            self._ended = True
            self._service.metrics.ended(path, self._status, now - self._begin)
        await self._send_next(event)


def _header(scope: Scope, name: bytes) -> bytes:
    values: list[bytes] = [value for key, value in scope["headers"] if key == name]
    return values[0] if len(values) == 1 else b""
