"""An answer that is being made, for those who wait for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

from kikimimi.contracts.answer import Answer
from kikimimi.contracts.generation import Generation
from kikimimi.inference.engine import Prompt


class Reply:
    """An answer that is being made.

    Iterating over it yields the answer's text in pieces, as they come; together they are the answer. Text in
    which the LLM thinks is left out.

    Args:
        prompt: What is asked.
        generation: How it is answered.
        listener: Called without arguments whenever there is something new, in the engine's thread; it must
            return at once.

    Attributes:
        prompt_tokens: Positions of the prompt, audio tokens included; None until it was read, and where the
            LLM answers whole batches only.
        tokens: Tokens of the answer so far; None there, too.
    """

    def __init__(
        self, prompt: Prompt, generation: Generation, listener: Callable[[], None] | None = None
    ) -> None:
        self.prompt, self.generation = prompt, generation
        self.prompt_tokens: int | None = None
        self.tokens: int | None = None
        self._listener = listener
        self._changed = threading.Condition()
        self._pieces: deque[str] = deque()
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._cancelled = False

    @property
    def done(self) -> bool:
        """Whether nothing more will come: it was answered, failed, or was cancelled."""
        return self._answer is not None or self._error is not None or self._cancelled

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any longer."""
        return self._cancelled

    def cancel(self) -> None:
        """Give it up: its place in the batch is free with the next token."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def take(self) -> list[str]:
        """Return the pieces of text that came since it was last asked, without waiting.

        Raises:
            KikimimiError: The request could not be answered.
        """
        with self._changed:
            taken = list(self._pieces)
            self._pieces.clear()
            if not taken and self._error is not None:
                raise self._error
            return taken

    def __iter__(self) -> Iterator[str]:
        """Yield pieces of the answer's text as they come; ends early where it was cancelled.

        Raises:
            KikimimiError: The request could not be answered.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self.done)
            taken = self.take()
            yield from taken
            if not taken and self.done:
                return

    def answer(self, timeout: float | None = None) -> Answer:
        """Wait for the whole answer, without what the LLM may think before.

        Args:
            timeout: Longest wait [s]; None waits for ever.

        Raises:
            KikimimiError: The request could not be answered.
            TimeoutError: The time is over; it is still being answered, unless it is cancelled.
            CancelledError: It was cancelled.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.done, timeout):
                raise TimeoutError(f"no answer within {timeout:g} s")
            if self._error is not None:
                raise self._error
            if self._answer is None:
                raise CancelledError
            return self._answer

    def give(self, piece: str) -> None:
        """Hand on a piece of the answer's text; the engine calls it."""
        with self._changed:
            self._pieces.append(piece)
            self._changed.notify_all()
        self._tell()

    def end(self, answer: Answer | None = None, error: BaseException | None = None) -> None:
        """Say that it was answered, or why it was not; the engine calls it."""
        with self._changed:
            self._answer, self._error = answer, error
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener()
