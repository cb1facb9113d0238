"""Texts of data and models on a terminal: all of them can be seen, and none can steer it."""

import unicodedata

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of Unicode that show nothing, or move what follows: control, format, surrogates, unassigned."""


def visible(text: str, *, lines: bool = False) -> str:
    """Return a text in which characters that show nothing, or steer a terminal, are written as escapes."""
    return "".join(
        character
        if character.isprintable()
        or (lines and character == "\n")
        or unicodedata.category(character) not in _UNSEEN
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def shortened(text: str, limit: int) -> str:
    """Return the first `limit` characters of a text, and how many more there are."""
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text) - limit:,} more characters)"
