"""Answers in which a piece of text is said over and over."""

import numpy as np

LEAST_TIMES = 4
"""How many times in a row a piece stands in a loop, at least."""
LEAST_LENGTH = 20
"""How long the repetitions are together, at least [characters]: shorter ones are laughter, or a stutter."""

LONGEST_PIECE = 500
"""Longest piece whose repetition is looked for [characters]."""


def has_loop(text: str) -> bool:
    """Whether a text holds a piece of up to `LONGEST_PIECE` characters `LEAST_TIMES` times in a row or more.

    All repetitions together are `LEAST_LENGTH` characters long or more. White space counts as other
    characters do, and is needed nowhere: Japanese has none between words.
    """
    characters = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)
    if len(characters) < LEAST_LENGTH:
        return False
    for period in range(1, min(LONGEST_PIECE, len(characters) // LEAST_TIMES) + 1):
        differ = np.flatnonzero(characters[period:] != characters[:-period])
        # Between two places that differ from what stands a period before, all goes on as before.
        edges = np.concatenate(([-1], differ, [len(characters) - period]))
        longest = int(np.diff(edges).max()) - 1 + period
        if longest >= max(LEAST_TIMES * period, LEAST_LENGTH):
            return True
    return False
