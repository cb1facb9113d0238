"""Texts at which an answer is to end."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Lets a text through up to the first of some texts, which may come in pieces.

    Args:
        stops: The texts, none of them empty.

    Attributes:
        found: Whether one of them came; nothing passes any more.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Take a piece; return what is certain to stand before any of the texts."""
        passed = ""
        for character in piece:  # one by one: how a text is cut into pieces changes nothing
            if self.found:
                break
            passed += self._take(character)
        return passed

    def _take(self, character: str) -> str:
        self._held += character
        ended = [len(stop) for stop in self._stops if self._held.endswith(stop)]
        if ended:
            self.found = True
            passed, self._held = self._held[: -max(ended)], ""
            return passed
        kept = max((self._begun(stop) for stop in self._stops), default=0)
        passed, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return passed

    def finish(self) -> str:
        """Return what was held back, as nothing follows."""
        passed, self._held = self._held, ""
        return passed

    def _begun(self, stop: str) -> int:
        """Return how many characters at the end may be the beginning of a stop."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if stop.startswith(self._held[-n:])), 0)
