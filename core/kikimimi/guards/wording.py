"""What answers are: right, refusals, in another script than asked for, the same as another, without words.

All of it goes by characters and patterns; docs/guards.md lists them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from kikimimi.contracts.answer import answer_text
from kikimimi.evaluation.error_rate import edits, error_rate
from kikimimi.recipe.schema import GuardLanguage

REFUSALS = (
    r"\bi(?:'m| am) (?:\w+ )?sorry\b",
    r"\bi apologi[sz]e\b",
    r"\bi (?:cannot|can not|can't|won't|will not|must decline)\b",
    r"\bi(?:'m| am) (?:not able|unable) to\b",
    r"\bi (?:do not|don't) have (?:access|the ability)\b",
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    r"申し訳(?:あり|ござい|な)",
    r"すみませんが|ごめんなさい",
    r"(?:答え|応え)(?:られません|られない|できません|できない|することは)",
    r"(?:お答え|お応え|お手伝い|対応|回答|提供|処理|理解)(?:は|が|を)?(?:できません|できない|いたしかねます)",
    r"(?:分|わ)かりかねます|(?:分|わ)かりません|知りません",
    r"ことは?(?:が)?できません",
    r"(?:ai|人工知能|言語モデル)(?:として|なので|ですので|のため)",
)
"""What a refusal holds, as patterns of Python; case plays no part."""
REFUSED_WITHIN = 100
"""Where a refusal stands: in so many characters from the beginning."""
SAME_TEXT = 20.0
"""Largest character error rate between two answers that count as the same text [%]."""
_REFUSAL = re.compile("|".join(REFUSALS), re.IGNORECASE)
_BRACKETED = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|<[^<>]*>|\*[^*]*\*|【[^【】]*】")
_JAPANESE = re.compile("[\u3005-\u3007\u3041-\u309f\u30a0-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f]")


def refuses(answer: str) -> bool:
    """Tell whether an answer refuses, by `REFUSALS` in its first `REFUSED_WITHIN` characters."""
    said = unicodedata.normalize("NFKC", answer_text(answer)).replace("\u2019", "'")
    return _REFUSAL.search(said[:REFUSED_WITHIN]) is not None


def letters(text: str) -> str:
    """Return the letters and digits of an answer, width and case unified; thoughts are left out."""
    folded = unicodedata.normalize("NFKC", answer_text(text)).casefold()
    return "".join(character for character in folded if character.isalnum())


def has_words(answer: str) -> bool:
    """Tell whether an answer says anything: letters or digits outside of brackets, as in ``(silence)``."""
    return bool(letters(_BRACKETED.sub("", unicodedata.normalize("NFKC", answer_text(answer)))))


def same_text(one: str, other: str) -> bool:
    """Tell whether two answers are the same text but for `SAME_TEXT` of the characters of the first."""
    rate = error_rate(edits(letters(one), letters(other)))
    return rate is not None and rate <= SAME_TEXT


def holds_answer(answer: str, accepted: Sequence[str]) -> bool:
    """Tell whether an answer holds one of the accepted words; Latin ones and digits as whole words."""
    said = unicodedata.normalize("NFKC", answer_text(answer)).casefold()
    return any(
        re.search(
            rf"(?<![a-z0-9]){word}(?![a-z0-9])"
            if (word := re.escape(one.casefold())).isascii()
            else re.escape(one),
            said,
        )
        for one in accepted
    )


def script_of(text: str) -> GuardLanguage | None:
    """Return the language whose script most letters of a text are in; None where no script has most of them.

    Japanese: kana and kanji; English: Latin letters. Digits and marks are in none.
    """
    found = [c for c in unicodedata.normalize("NFKC", answer_text(text)) if c.isalpha() or c == "\u3005"]
    japanese = sum(_JAPANESE.match(character) is not None for character in found)
    latin = sum(unicodedata.name(character, "").startswith("LATIN") for character in found)
    if 2 * japanese > len(found):
        return "ja"
    return "en" if 2 * latin > len(found) else None


def drifts(answer: str, language: GuardLanguage) -> bool:
    """Tell whether most letters of an answer are in another script than that of its request's language.

    An answer without letters drifts nowhere.
    """
    said = any(character.isalpha() for character in answer_text(answer))
    return said and script_of(answer) != language
