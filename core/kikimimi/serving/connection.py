"""One client's connection: what it owes has a time, so that nobody holds one for nothing."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kikimimi.serving.limits import Limits
from kikimimi.serving.refusal import RefusalError


class Connection(H11Protocol):
    """A connection that is closed where its client is late with a request's head, or with reading.

    The bodies of requests that are worked on have a time of their own: see `Guard`.
    """

    limits: ClassVar[Limits] = Limits()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # whatever is not read is waited for
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        for timer in filter(None, (self._head, self._reading)):
            timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        super().data_received(data)
        self._wait_for_head()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._reading = self.loop.call_later(self.limits.timeout_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()

    def _wait_for_head(self) -> None:
        """Count the time while a head is due, or the rest of a body that nobody reads any more."""
        unread = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if unread or self.conn.their_state is h11.IDLE:
            seconds = self.limits.timeout_seconds if unread else self.limits.head_seconds
            self._head = self._head or self.loop.call_later(seconds, self._late)
        elif self._head is not None:
            self._head.cancel()
            self._head = None

    def _late(self) -> None:
        if self.conn.our_state is h11.IDLE and not self.transport.is_closing():
            response = RefusalError(
                408, "the head of the request did not come within the time", code="timeout"
            ).response
            headers = [*response.raw_headers, (b"connection", b"close")]
            events = (
                h11.Response(status_code=response.status_code, headers=headers),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            )
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()


def connection_of(limits: Limits) -> type[Connection]:
    """Return the connections of a server with such limits, as uvicorn wants them: a class."""
    return type("Connection", (Connection,), {"limits": limits})
