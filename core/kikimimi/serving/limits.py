"""How much a server takes on at a time, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kikimimi.console.words import amount
from kikimimi.inference.engine import BATCH_SIZE
from kikimimi.serving.refusal import RefusalError

UPLOAD_BYTES = 25 << 20
"""Largest upload, as OpenAI has it."""
_UPLOADS = 20  # of the largest size that are held together


@dataclass(kw_only=True, frozen=True)
class Limits:
    """What one server takes on."""

    max_rows: int = BATCH_SIZE
    """Requests that are answered together."""
    max_requests: int = 256
    """Requests that are read, wait or are answered; one more is told to come again."""
    max_upload_bytes: int = UPLOAD_BYTES
    """Largest body of a request."""
    max_audio_seconds: float = 7200.0
    """Longest audio of a request [s], decoded."""
    timeout_seconds: float = 300.0
    """Longest time from a request's first byte to its answer's last [s]."""
    head_seconds: float = 10.0
    """Longest time that a connection waits for a whole head of a request [s]."""

    @property
    def max_held_bytes(self) -> int:
        """Bytes of all requests together that are held in memory."""
        return _UPLOADS * self.max_upload_bytes

    @property
    def places(self) -> int:
        """How many clips are decoded or with the engine at a time: as many again wait as are answered."""
        return 2 * self.max_rows

    def check_upload(self, length: int) -> None:
        """Check the length of a body, or of what has come of it [bytes].

        Raises:
            RefusalError: It is longer than it may be.
        """
        if length > self.max_upload_bytes:
            raise RefusalError(
                413,
                f"the request is larger than {self.max_upload_bytes >> 20} MB "
                f"({self.max_upload_bytes:,} bytes), the most that is taken here (kikimimi serve "
                "--max-megabytes)",
                code="too_large",
            )

    def check_seconds(self, seconds: float, name: str) -> None:
        """Check the length of audio [s].

        Raises:
            RefusalError: It is longer than it may be.
        """
        if seconds > self.max_audio_seconds:
            raise RefusalError(
                413,
                f"{name}: lasts {amount(seconds)} ({seconds:,.1f} s); at most "
                f"{self.max_audio_seconds:,.0f} s are taken here (kikimimi serve --max-seconds)",
                param=name,
                code="audio_too_long",
            )


class Load:
    """What a server has taken on: requests, and the bytes of their bodies.

    Attributes:
        requests: Number of requests that are read, wait or are answered.
        held: Bytes of their bodies.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = self.held = 0

    @contextmanager
    def request(self) -> Iterator[HeldBody]:
        """Take on a request.

        Raises:
            RefusalError: There are as many as there may be.
        """
        if self.requests >= self.limits.max_requests:
            raise RefusalError(
                429,
                f"{self.requests} requests are being answered or wait already; try again later",
                code="busy",
            )
        body = HeldBody(self)
        self.requests += 1
        try:
            yield body
        finally:
            self.requests -= 1
            self.held -= body.length


class HeldBody:
    """What has come of a request's body.

    Attributes:
        length: Its length so far [bytes].
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self.length = 0

    def add(self, count: int) -> None:
        """Count bytes that came.

        Raises:
            RefusalError: They are more than one request may send, or than all may together.
        """
        self.length += count
        self._load.held += count
        self._load.limits.check_upload(self.length)
        if self._load.held > self._load.limits.max_held_bytes:
            raise RefusalError(
                429, "the uploads of others fill the memory for them; try again later", code="busy"
            )
