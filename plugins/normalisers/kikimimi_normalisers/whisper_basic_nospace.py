"""Whisper's normaliser for languages other than English, without the spaces it leaves behind."""

import re
import unicodedata

from kikimimi import Normaliser

_BRACKETED = re.compile(r"[<\[][^>\]]*[>\]]")
_PARENTHESISED = re.compile(r"\([^)]+\)")
_MARK_SYMBOL_PUNCTUATION = frozenset("MSP")


class WhisperBasicNoSpace(Normaliser):
    """Lower case, no bracketed parts, NFKC, no marks, symbols, punctuation or white space.

    In this order: lower-case; delete ``[...]``, ``<...>`` and ``(...)`` (ASCII brackets only, because NFKC
    comes after); NFKC; characters of Unicode categories M, S and P become spaces; lower-case again (NFKC
    brings capitals); delete all white space, which is what a character error rate of Japanese needs.

    All but the last step is `BasicTextNormalizer(remove_diacritics=False)` of Radford et al. 2022 ("Robust
    Speech Recognition via Large-Scale Weak Supervision", appendix C; in transformers:
    `models/whisper/english_normalizer.py`), to which the tests compare it. The variant that removes
    diacritics is of no use here: it turns a voiced kana into the unvoiced one. The Unicode tables are those
    of the running Python.
    """

    def __call__(self, text: str) -> str:
        """Return the normalised text."""
        text = _PARENTHESISED.sub("", _BRACKETED.sub("", text.lower()))
        kept = (
            " " if unicodedata.category(character)[0] in _MARK_SYMBOL_PUNCTUATION else character
            for character in unicodedata.normalize("NFKC", text)
        )
        return "".join("".join(kept).lower().split())
