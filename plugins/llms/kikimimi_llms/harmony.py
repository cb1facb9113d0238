"""Messages with channels, as token ids: OpenAI's Harmony format, which LLM-jp-4 writes.

A message is `<|start|>ROLE<|channel|>CHANNEL<|message|>TEXT` and ends with `<|end|>`, `<|return|>` or
`<|call|>`. The parts are told apart by their ids, for text may spell the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

FINAL = "final"


@dataclass(frozen=True)
class Piece:
    """Ids of a generated answer that belong together.

    Attributes:
        channel: The message's channel; None before any header.
        ids: The message's text.
        closed: Whether the message's end follows.
    """

    channel: str | None
    ids: list[int]
    closed: bool


class Harmony:
    """Reads messages from ids that follow the header `<|start|>assistant`.

    Args:
        tokenizer: A tokenizer with Harmony's control tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        ids = tokenizer.get_vocab()
        self._tokenizer = tokenizer
        self._headers = {ids[token] for token in ("<|start|>", "<|channel|>") if token in ids}
        self._channel, self._message = ids["<|channel|>"], ids["<|message|>"]
        self._end = ids["<|end|>"]
        self._ends = {ids[token] for token in ("<|end|>", "<|return|>", "<|call|>") if token in ids}

    @classmethod
    def find(cls, tokenizer: Any) -> Self | None:
        """Return the format where a tokenizer has its control tokens, else None."""
        vocabulary = tokenizer.get_vocab()
        needed = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
        return cls(tokenizer) if all(token in vocabulary for token in needed) else None

    def stop_ids(self, given: Sequence[int]) -> list[int]:
        """Return the ids that end an answer wherever they stand: `<|end|>` ends a thought too."""
        return sorted((set(given) | self._ends) - {self._end})

    def is_answered(self, ids: Sequence[int]) -> bool:
        """Whether ids end where a message of the final channel, or of none, is closed."""
        if not ids or ids[-1] != self._end:
            return False
        *_, last = self.pieces(ids)
        return last.closed and last.channel in (FINAL, None)

    def until_answered(self, ids: Sequence[int]) -> list[int]:
        """Return the ids up to the end of the first message of the final channel, without that end."""
        for place, token in enumerate(ids):
            if token == self._end and self.is_answered(ids[: place + 1]):
                return list(ids[:place])
        return list(ids)

    def answer(self, ids: Sequence[int]) -> list[int]:
        """Return the ids of the text of the final channel, and of what stands in no message."""
        return [token for piece in self.pieces(ids) if piece.channel in (FINAL, None) for token in piece.ids]

    def pieces(self, ids: Sequence[int]) -> Iterator[Piece]:
        """Split ids into texts by the headers between them."""
        channel: str | None = None
        text: list[int] = []
        header: list[int] | None = None  # the ids since the last control token of a header
        for token in ids:
            if token in self._ends:
                yield Piece(channel, text, closed=True)
                channel, text, header = None, [], None
            elif token in self._headers:
                if header is None and text:
                    yield Piece(channel, text, closed=False)
                    text = []
                header = []
                if token != self._channel:
                    channel = None
            elif token == self._message:
                name = self._tokenizer.decode(header or []).split()
                channel = name[0] if name else channel
                header = None
            elif header is None:
                text.append(token)
            else:
                header.append(token)
        if text:
            yield Piece(channel, text, closed=False)
