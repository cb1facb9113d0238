"""Whether a text holds words between white space, as metrics of words take it; Japanese has none."""

import re

_JAPANESE = re.compile(r"[\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f]")
_MOST_LETTERS = 4
"""Most Japanese letters per word, on average, of a text whose words stand apart; sentences that are cut by a
dictionary have about two."""


def check_words_stand_apart(text: str, instead: str) -> None:
    """Check that a text is not Japanese (or Chinese) in one piece, which metrics of words take for one word.

    Args:
        text: The text; what stands between white space is taken for a word.
        instead: What to choose for such texts, for the error.

    Raises:
        ValueError: It has more than four kana and kanji per word.
    """
    if len(_JAPANESE.findall(text)) > _MOST_LETTERS * len(text.split()):
        shown = text if len(text) <= 30 else f"{text[:30]}..."
        raise ValueError(f"words are looked for between white space, and {shown!r} has none there: {instead}")
