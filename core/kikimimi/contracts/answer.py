"""What a system answers: its text, whether it was cut, and which part of it is thinking."""

from __future__ import annotations

from typing import Self

THINKING: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
)
"""Pairs of tags between which LLMs think before they answer."""


class Answer(str):
    """A text that a system wrote.

    Attributes:
        cut: Whether it ended because no more tokens were allowed; None where that is not known.
    """

    cut: bool | None

    def __new__(cls, text: str, *, cut: bool | None = None) -> Self:
        """Return a text that knows whether it was cut."""
        made = super().__new__(cls, text)
        made.cut = cut
        return made

    @property
    def stripped(self) -> Answer:
        """The answer without white space around it."""
        return Answer(self.strip(), cut=self.cut)

    @property
    def spoken(self) -> Answer:
        """The answer as `answer_text` has it."""
        return Answer(answer_text(self), cut=self.cut)


def answer_text(text: str) -> str:
    """Return what is scored of a text: without thoughts, and without white space around it."""
    return without_thoughts(text).strip()


def without_thoughts(text: str) -> str:
    """Return a text without thoughts, and without the white space around what is then left.

    A thought that is never closed goes on to the end. What stands before a closing tag that nothing opens is
    a thought, too: the prompt has opened it. A text without thoughts stays as it is.
    """
    for begin, end in THINKING:
        if begin in text or end in text:
            text = _outside(text, begin, end).strip()
    return text


def open_thought(text: str) -> str | None:
    """Return the tag of the thought in which a text ends, or None."""
    return next((begin for begin, end in THINKING if text.rfind(begin) > text.rfind(end)), None)


def _outside(text: str, begin: str, end: str) -> str:
    """Return what stands in a text outside of thoughts between two tags."""
    kept = ""
    *closed, last = text.split(end)
    for part in closed:
        said, opened, _ = part.partition(begin)
        kept = kept + said if opened else ""
    return kept + last.partition(begin)[0]
