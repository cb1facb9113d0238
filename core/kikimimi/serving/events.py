"""Answers that are sent as they are made: server-sent events with JSON, as OpenAI sends them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from kikimimi.console.terminal import json_text
from kikimimi.serving.refusal import refusal_of

Events = AsyncGenerator[dict[str, Any], None]
"""What is sent, one JSON object for each event."""


class EventStream(Response):
    """A response whose events come one by one; after the last one comes `[DONE]`.

    An error in the middle is an event, too, and ends the stream without `[DONE]`. The events' generator is
    closed at the end, also where the client has gone away before.

    Args:
        first: The first event.
        rest: The generator of the others.
    """

    media_type = "text/event-stream"

    def __init__(self, first: dict[str, Any], rest: Events) -> None:
        # No proxy holds back what is to be seen at once.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first, self._rest = first, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._rest) as rest:
            await _send(send, json_text(self._first))
            try:
                async for event in rest:
                    await _send(send, json_text(event))
                await _send(send, "[DONE]")
            except Exception as error:  # noqa: BLE001 # whatever it is, the client is told
                await _send(send, json_text(refusal_of(error).body))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def streamed(events: Events) -> Response:
    """Return events as a response, once the first one is there: what fails before has its own status."""
    try:
        first = await anext(events)
    except BaseException:
        await events.aclose()
        raise
    return EventStream(first, events)


async def _send(send: Send, data: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
