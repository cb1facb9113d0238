"""The text of an answer that is still being written."""

from kikimimi.contracts.answer import THINKING, answer_text

_HALF = "\ufffd"
"""What tokens decode to that end within a character."""
_TAGS = [tag for pair in THINKING for tag in pair]


class GrowingText:
    """Tells what may be said of an answer before it is whole.

    What is said is never taken back: neither thoughts, nor what may turn out to begin one, nor white space or
    half a character at the end.
    """

    def __init__(self) -> None:
        self.said = ""

    def grow(self, written: str) -> str:
        """Return the piece that can be said now, given all that the LLM wrote so far; may be empty."""
        text = written.rstrip(_HALF)
        begun = max((n for tag in _TAGS for n in range(1, len(tag)) if text.endswith(tag[:n])), default=0)
        return self._say(answer_text(text[: len(text) - begun]))

    def end(self, text: str) -> str:
        """Return what is missing of the whole answer."""
        return self._say(text)

    def _say(self, text: str) -> str:
        # A tokenizer may spell earlier text otherwise when more follows: then the end tells.
        piece = text[len(self.said) :] if text.startswith(self.said) else ""
        self.said += piece
        return piece
