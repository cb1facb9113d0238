"""A vocabulary that needs no tokenizer: the bytes of UTF-8."""

from __future__ import annotations

from collections.abc import Sequence

from kikimimi.vocabulary import Vocabulary


class BytesVocabulary(Vocabulary):
    """256 ids: the bytes of a text in UTF-8. Stands in for an LLM's tokens where adapters are checked."""

    size = 256

    def encode(self, text: str) -> list[int]:
        """Return one id per byte."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; bytes that form no character become the replacement character."""
        return bytes(ids).decode(errors="replace")
