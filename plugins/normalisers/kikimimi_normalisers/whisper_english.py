"""Whisper's normaliser for English."""

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

from kikimimi import Normaliser

# Python refuses to read integers of many thousand digits, and upstream ends there.
_MOST_DIGITS = 4000
_TOO_LONG = re.compile(rf"(\d{{{_MOST_DIGITS}}})(?=\d)")


class WhisperEnglish(Normaliser):
    r"""Whisper's English: lower case, no punctuation, digits, no contractions, American spelling.

    `EnglishTextNormalizer` of Radford et al. 2022 ("Robust Speech Recognition via Large-Scale Weak
    Supervision", appendix C), computed by its copy in transformers (`models/whisper/english_normalizer.py`)
    with the 1,739 spellings that openai/whisper ships, which transformers does not (its MIT licence lies
    beside them). In this order: lower-case; delete ``[...]``, ``<...>`` and ``(...)``, and the words hmm, mm,
    mhm, mmm, uh and um; spell out contractions (``won't``, ``'re``) and titles (``mr``, ``st``); delete
    commas between digits, full stops, and other marks, symbols, punctuation and diacritics; numbers in words
    to digits, with ``%`` and currency; British to American spelling; one space between words.

    For word error rates of English. It is wrong where upstream is: every ``'s`` becomes ``is``, ``st`` is
    always a saint, ``wait...`` leaves a word of one full stop, and ``minus 5`` becomes ``-5``, which
    normalised again becomes ``5``. Two things are ours: no white space at the ends, and a run of more than
    4,000 digits, at which upstream ends with an error, is cut in pieces.
    """

    stable: ClassVar[bool] = False

    def __call__(self, text: str) -> str:
        """Return the normalised text."""
        return str(_upstream()(_TOO_LONG.sub(r"\1 ", text))).strip()


@cache
def _upstream() -> Any:
    # Imports most of transformers, though not torch: when the first text is there.
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    spellings = files("kikimimi_normalisers") / "whisper_spellings.json"
    return EnglishTextNormalizer(json.loads(spellings.read_bytes()))
