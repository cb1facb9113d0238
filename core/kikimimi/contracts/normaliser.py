"""The contract of a text normaliser: what is made of reference and prediction before they are compared."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import ClassVar

from kikimimi.contracts.registry import load
from kikimimi.errors import PluginError

_PROBES = (
    "",
    "Mr. O'Neil doesn't realise it's 3:45 p.m., e.g. on Nov. 29th, 2026 (laughs) <unk>.",
    "The colour of $1,234.50 and 20 million cafés isn't one hundred and five percent, uh, is it?",
    "twenty-twenty nine point five; 1st, 2nd, 90s; I'd've gone  to\tthe\nNAÏVE co-operation #1.",
    "今日は、いい　天気。「はい」『いいえ』（笑）[拍手]え？！ほんと?!",
    "２０２６年11月29日は二〇二六年十一月二十九日、一九四五年も千九百四十五年も。",
    "１，０００円、3.14％、0.5、0120-444-555、1万5000人、一億二千万、三・一四、1/2、½、Ⅳ、①、㌔、㍻。",
    "一人で一番三日月を見た。十分、一つ、二、三日、四五人、三々五々、第１回、３ヶ月、三か月、〇×。",
    "ｺｰﾋｰ、コ―ヒ—、コーヒーーー、ですよね〜、あ～、すごーーい！ガギグ　か\u3099き\u3099　ヴァイオリン",
    "人々、時々、いすゞ、こゝろ、部分々々、髙橋さんと山﨑さんと𠮷田さん、わたしと私、ダメとだめ。",
    "ＡＢＣ　Ａｂｃ aBc ＄5 ¥1,000 20℃ 5km −5 A&B C++ x=y ♪ \U0001f442 e\u0301 ß İ ǆ",
    "9" * 60,
)
"""What a normaliser is known by. None is ever changed: every hash would be another one."""


class Normaliser(ABC):
    """Normalises a text. Built without arguments; the docstring states the definition and its source.

    A score without the name of its normaliser is meaningless, so every score carries it, and the hash of what
    the normaliser does (`normaliser_hash`). What a name does stays as it is: another behaviour is another
    name, such as ``-v2``.

    Attributes:
        stable: Whether a normalised text stays as it is when it is normalised again. Only what follows a
            published normaliser to the letter, which does not, says no.
    """

    stable: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, text: str) -> str:
        """Return the normalised text, which stays as it is when it is normalised again (`stable`)."""


def normaliser_hash(name: str) -> str:
    """Return what a normaliser is known by: 12 hexadecimal digits of what it does under its name.

    They are the start of the SHA-256 of the name and of what it makes of a fixed set of texts (Japanese and
    English: numbers, widths, punctuation, brackets, long vowels, contractions, spellings), as JSON in ASCII.
    The same in every process; another one says that the normaliser, or a library that it uses, is another.

    Args:
        name: The registered name, with or without its distribution.

    Raises:
        PluginError: No such normaliser, or it does not take one of the texts.
    """
    # A class is hashable, which mypy does not see of one that may be abstract.
    made_by: Callable[[], Normaliser] = load("normaliser", name)
    return _hash(name.rpartition(":")[2], made_by)


@cache
def _hash(name: str, make: Callable[[], Normaliser]) -> str:
    normalise = make()
    try:
        made = [str(normalise(text)) for text in _PROBES]
    except Exception as error:
        raise PluginError(
            f"normaliser '{name}' takes any text, and ended with {type(error).__name__}: {error}"
        ) from error
    return hashlib.sha256(json.dumps([name, made]).encode("ascii")).hexdigest()[:12]
