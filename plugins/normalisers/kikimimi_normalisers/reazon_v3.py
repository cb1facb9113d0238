"""The normaliser of ReazonSpeech's evaluation."""

import re
import string
import unicodedata

from num2words import num2words

from kikimimi import Normaliser

_PUNCTUATION = (
    "IDEOGRAPHIC COMMA",
    "IDEOGRAPHIC FULL STOP",
    "LEFT CORNER BRACKET",
    "RIGHT CORNER BRACKET",
    "LEFT WHITE CORNER BRACKET",
    "RIGHT WHITE CORNER BRACKET",
    "FULLWIDTH COMMA",
    "FULLWIDTH QUESTION MARK",
    "FULLWIDTH EXCLAMATION MARK",
    "COMMA",
    "QUESTION MARK",
    "EXCLAMATION MARK",
)
# The full-width forms stand in the order of ASCII, at one fixed distance from it.
_FULL_WIDTH_OFFSET = ord(unicodedata.lookup("FULLWIDTH DIGIT ZERO")) - ord("0")
_TABLE: dict[int, str] = {ord(unicodedata.lookup(name)): "" for name in _PUNCTUATION} | {
    ord(character) + _FULL_WIDTH_OFFSET: character for character in string.ascii_letters + string.digits
}
_NUMBER = re.compile(r"\d+\.?\d*")
# num2words raises OverflowError from 10 ** 51 on, and Python refuses to print integers of many thousand
# digits inside that very error; a model that repeats a digit for ever must not stop an evaluation.
_MAX_DIGITS = 51


class ReazonV3(Normaliser):
    r"""No Japanese punctuation, half-width letters and digits, numbers in Japanese words.

    In this order: delete the ideographic comma and full stop, (white) corner brackets, and comma, question
    mark and exclamation mark of both widths; full-width latin letters and digits to half width; each
    ``\d+\.?\d*`` to Japanese words by `num2words`, where a number too large for it stays. Nothing else:
    case and white space count, and ``1,000`` has lost its comma before it is read.

    After `reazonspeech.evaluation` 3.0.0 (reazon-research/ReazonSpeech, `pkg/evaluation/src/utils.py`, 2026).
    Version 1 of that package deleted another list of symbols and gives other figures.
    """

    def __call__(self, text: str) -> str:
        """Return the normalised text."""
        return _NUMBER.sub(_in_words, text.translate(_TABLE))


def _in_words(match: re.Match[str]) -> str:
    number = match.group()
    if len(number.partition(".")[0].lstrip("0")) > _MAX_DIGITS:
        return number
    try:
        return str(num2words(number, lang="ja"))
    except OverflowError:
        return number
