"""What was heard in a recording, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class TimedWord(NamedTuple):
    """A word, or a character of a script without spaces, and when it was said.

    Attributes:
        start: Beginning [s].
        end: End [s].
        word: How it is spelled, without the spaces around it.
    """

    start: float
    end: float
    word: str

    def after(self, seconds: float) -> TimedWord:
        """Return it as it stands in a recording of which so much comes before [s]."""
        return TimedWord(self.start + seconds, self.end + seconds, self.word)


class TextSegment(NamedTuple):
    """A stretch of a recording, and the text that was heard in it.

    Attributes:
        start: Beginning [s].
        end: End [s].
        text: What was heard.
        words: When each word was said, where that is known.
    """

    start: float
    end: float
    text: str
    words: tuple[TimedWord, ...] = ()


class Transcript(NamedTuple):
    """What was heard in a recording.

    Attributes:
        segments: The stretches that were heard, in order; no two overlap.
        seconds: Length of the recording [s].
    """

    segments: tuple[TextSegment, ...]
    seconds: float

    @property
    def text(self) -> str:
        """The texts of all segments, joined."""
        return join_texts([segment.text for segment in self.segments])

    @property
    def left_out(self) -> float:
        """Length of what was not heard, as nobody speaks there [s]."""
        return self.seconds - sum(segment.end - segment.start for segment in self.segments)


def join_texts(texts: Sequence[str]) -> str:
    """Join the texts of consecutive pieces; a space goes between two where both scripts use spaces."""
    joined = ""
    for text in filter(None, (text.strip() for text in texts)):
        spaced = bool(joined) and joined[-1].isascii() and text[0].isascii()
        joined += f" {text}" if spaced else text
    return joined
