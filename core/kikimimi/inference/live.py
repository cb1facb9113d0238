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
from kikimimi.inference.running_answers import RunningAnswers
from kikimimi.model.sharding import is_sharded

MAX_WAITING = 64
"""Requests that may wait beside those that are being answered, where nothing else is asked for."""


_ON_CPU, _ON_GPU = 2, 8
"""Prompts that are read together, between two tokens of the others."""


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
        self._at_once = _ON_CPU if engine.device.type == "cpu" else _ON_GPU
        self._rows: dict[bool | None, RunningAnswers] = {}

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
        return sum(not reply.cancelled for reply in tuple(self._waiting))  # whichever thread asks

    @property
    def answering(self) -> int:
        """Number of requests whose answers are growing."""
        return sum(map(len, tuple(self._rows.values())))

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
                self._changed.wait_for(lambda: self._waiting or self.answering or self._closed)
                if self._closed:
                    break
                taken = self._take()
            self._admit(taken)
            for rows in self._rows.values():
                try:
                    rows.step()
                except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are told
                    rows.give_up(error)
        for rows in self._rows.values():
            rows.give_up(None)

    def _take(self) -> list[Reply]:
        """Take some of those that wait: few, for those that are being answered wait meanwhile."""
        taken: list[Reply] = []
        while self._waiting and len(taken) < min(self._at_once, self.max_rows - self.answering):
            reply = self._waiting.popleft()
            if not reply.cancelled:
                taken.append(reply)
        return taken

    def _admit(self, replies: list[Reply]) -> None:
        kinds: dict[bool, list[Reply]] = {}
        for reply in replies:
            kinds.setdefault(bool(reply.prompt.clips), []).append(reply)
        for hears, together in kinds.items():
            rows = self._answers_for(hears)
            whole = together if rows is None else self._enter(rows, together)
            for generation in dict.fromkeys(reply.generation for reply in whole):
                self._answer_whole([reply for reply in whole if reply.generation == generation], generation)

    def _enter(self, rows: RunningAnswers, replies: list[Reply]) -> list[Reply]:
        """Let requests in, and return those that have to be answered whole."""
        try:
            opened = self.engine.open([r.prompt for r in replies], [r.generation for r in replies])
            taken = [rows.takes(prompt, r.generation) for r, prompt in zip(replies, opened, strict=True)]
            pairs = list(zip(replies, opened, strict=True))
            rows.enter([pair for pair, takes in zip(pairs, taken, strict=True) if takes])
        except Exception as error:  # noqa: BLE001 - whatever it is, who asked is told
            return _blame(replies, error, lambda reply: self._enter(rows, [reply]))
        return [reply for reply, takes in zip(replies, taken, strict=True) if not takes]

    def _answer_whole(self, replies: list[Reply], generation: Generation) -> list[Reply]:
        try:
            answers = self.engine.answer([reply.prompt for reply in replies], generation)
        except Exception as error:  # noqa: BLE001 - whatever it is, who asked is told
            return _blame(replies, error, lambda reply: self._answer_whole([reply], generation))
        for reply, answer in zip(replies, answers, strict=True):
            reply.give(answer.spoken)
            reply.end(answer.spoken)
        return []

    def _answers_for(self, hears: bool) -> RunningAnswers | None:
        """Return the rows of prompts with or without audio; None where the LLM answers whole batches only."""
        apart = hears if self.engine.model.gate is not None else None
        if apart not in self._rows:
            batch = None if is_sharded(self.engine.model) else self.engine.model.llm.running_batch()
            if batch is None:
                return None
            self._rows[apart] = RunningAnswers(self.engine, batch, apart)
        return self._rows[apart]


def _blame(replies: list[Reply], error: Exception, again: Callable[[Reply], list[Reply]]) -> list[Reply]:
    """Try each request alone where several failed together, for one alone may be at fault."""
    if len(replies) > 1:
        return [left for reply in replies for left in again(reply)]
    replies[0].end(error=error)
    return []
