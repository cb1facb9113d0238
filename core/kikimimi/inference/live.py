"""The engine for people who wait: requests come when they come, and share batches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Self

from kikimimi.contracts.generation import Generation
from kikimimi.errors import KikimimiError
from kikimimi.inference.engine import BATCH_SIZE, Engine, Prompt
from kikimimi.inference.reply import Reply

MAX_WAITING = 64
"""Requests that may wait beside those that are being answered, where nothing else is asked for."""


class BusyError(KikimimiError):
    """As many requests wait as may: ask again later."""


class LiveEngine:
    """Answers requests as they come, together: who has finished leaves, who waits enters.

    It runs in a thread of its own from the first request to `close`. An answer is the one that
    `Engine.answer` gives, whoever shares its batch.

    Args:
        engine: The engine that does the work; nobody else may use it meanwhile.
        max_rows: Most requests that are answered together.
        max_waiting: Most requests that wait for that.
    """

    def __init__(self, engine: Engine, *, max_rows: int = BATCH_SIZE, max_waiting: int = MAX_WAITING) -> None:
        self.engine = engine
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self._waiting: deque[Reply] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(
        self, prompt: Prompt, generation: Generation, listener: Callable[[], None] | None = None
    ) -> Reply:
        """Ask for an answer, and return at once.

        Args:
            prompt: What is asked.
            generation: How it is answered.
            listener: Called whenever there is something new; see `Reply`.

        Raises:
            BusyError: As many wait as may.
            DataError: A clip is longer than the encoder takes.
            RuntimeError: The engine is closed.
        """
        self.engine.check(prompt)
        reply = Reply(prompt, generation, listener)
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            if self.waiting >= self.max_waiting:
                raise BusyError(f"{self.max_waiting} requests wait already")
            self._waiting.append(reply)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kikimimi-engine", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return reply

    @property
    def waiting(self) -> int:
        """Number of requests that nobody has begun to answer."""
        return sum(not reply.cancelled for reply in self._waiting)

    def close(self) -> None:
        """Answer nothing any more: what waits or is being answered is cancelled."""
        with self._changed:
            self._closed = True
            for reply in self._waiting:
                reply.cancel()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                reply = self._waiting.popleft()
            if not reply.cancelled:
                self._answer_whole(reply)

    def _answer_whole(self, reply: Reply) -> None:
        try:
            (answer,) = self.engine.answer([reply.prompt], reply.generation)
        except Exception as error:
            reply.end(error=error)
            return
        spoken = answer.spoken
        reply.give(spoken)
        reply.end(spoken)
