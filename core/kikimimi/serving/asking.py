"""Asking the engine from coroutines: a request that waits takes no thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from types import TracebackType
from typing import Self

from kikimimi.contracts.answer import Answer
from kikimimi.contracts.generation import Generation
from kikimimi.inference.engine import Prompt
from kikimimi.inference.live import LiveEngine
from kikimimi.inference.reply import Reply
from kikimimi.serving.refusal import RefusalError


class Asker:
    """The way to an engine, with so many places.

    Clips are decoded and held by who has a place, and so the memory of what waits is bounded, in the order
    in which requests came.

    Args:
        engine: The engine; its queue is as long as there are places.
        places: How many questions are with it, or about to be.
    """

    def __init__(self, engine: LiveEngine, places: int) -> None:
        self.engine = engine
        self.places = asyncio.Semaphore(places)

    @property
    def has_room(self) -> bool:
        """Whether a question gets a place at once."""
        return not self.places.locked()

    def question(self, deadline: float) -> Question:
        """Return a question that has no place yet.

        Args:
            deadline: Time of the event loop's clock until which it may wait [s].
        """
        return Question(self, deadline)


class Question:
    """One question to the engine: a place, and then a reply.

    As a context it takes a place, and in the end gives it back and gives up what is not answered yet.

    Attributes:
        has_place: Whether it holds a place.
        reply: What the engine makes of it; None until it was asked, and once it is closed.
    """

    def __init__(self, asker: Asker, deadline: float) -> None:
        self._asker, self._deadline = asker, deadline
        self._news = asyncio.Event()
        self.has_place = False
        self.reply: Reply | None = None

    async def __aenter__(self) -> Self:
        """Wait for a place.

        Raises:
            RefusalError: There was none in time.
        """
        await self._until(self._asker.places.acquire())
        self.has_place = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Give up what is not answered, and the place; let go of the clips that were asked about."""
        if self.reply is not None and not self.reply.done:
            self.reply.cancel()
        self.reply = None
        self._leave()

    def ask(self, prompt: Prompt, generation: Generation) -> None:
        """Hand the question to the engine.

        Raises:
            BusyError: As many wait there as may.
            DataError: A clip is longer than the encoder takes.
        """
        loop = asyncio.get_running_loop()

        def listen() -> None:
            loop.call_soon_threadsafe(self._hear)

        self.reply = self._asker.engine.submit(prompt, generation, listen)

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Yield the pieces of the answer as they come.

        Raises:
            KikimimiError: It cannot be answered.
            RefusalError: The time is over.
        """
        assert self.reply is not None
        while True:
            self._news.clear()
            done = self.reply.done  # before what has come is taken: nothing comes after that
            pieces = self.reply.take()
            for piece in pieces:
                yield piece
            if done and not pieces:
                return
            if not pieces:
                await self._until(self._news.wait())

    async def answer(self) -> Answer:
        """Wait for the whole answer.

        Raises:
            KikimimiError: It cannot be answered.
            CancelledError: The engine was closed.
            RefusalError: The time is over.
        """
        assert self.reply is not None
        while not self.reply.done:
            self._news.clear()
            if not self.reply.done:
                await self._until(self._news.wait())
        return self.reply.answer()

    def _hear(self) -> None:
        self._news.set()
        if self.reply is not None and self.reply.done:
            self._leave()  # whoever is slow to read holds no place

    def _leave(self) -> None:
        if self.has_place:
            self.has_place = False
            self._asker.places.release()

    async def _until(self, awaited: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await awaited
        except TimeoutError:
            if self.reply is None or self.reply.prompt_tokens is None:
                raise RefusalError(
                    503, "nobody has begun to answer within the time; try again later", code="timeout"
                ) from None
            raise RefusalError(
                504,
                "the answer is not done within the time (kikimimi serve --timeout); ask for a shorter one",
                code="timeout",
            ) from None
