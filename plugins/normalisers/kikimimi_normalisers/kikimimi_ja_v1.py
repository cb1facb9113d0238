"""Kikimimi's normaliser for Japanese, version 1."""

import re
import unicodedata

from kikimimi import Normaliser

_DIGITS = "〇一二三四五六七八九"
_SMALL_UNITS = ("", "十", "百", "千")
_LARGE_UNITS = ("", "万", "億", "兆", "京")
_NUMERAL = f"[0-9{_DIGITS}十百千万億兆京]"
_KANJI = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KATAKANA = r"\u30a1-\u30fa\u30fc"
_DASH = r"\-\u2010-\u2015\u2212\u2500"
_WAVE = r"~\u301c\u3030"

# Old and other forms of a kanji of one reading each, as names have them.
_VARIANTS = str.maketrans(
    "髙﨑𠮷濵濱邊邉澤國廣櫻眞德惠榮圓學會嶋嶌遙瀧萬壽與藝團臺",
    "高崎吉浜浜辺辺沢国広桜真徳恵栄円学会島島遥滝万寿与芸団台",
)
# Digits that NFKC would join to those beside them.
_FRACTIONS = r"\u00bc-\u00be\u2150-\u215e"
_MIXED_FRACTION = re.compile(rf"(?<=[0-9\uff10-\uff19])(?=[{_FRACTIONS}])")
_OTHER_NUMBER = re.compile(rf"[\u00b2\u00b3\u00b9{_FRACTIONS}\u2070-\u2089\u2460-\u249b\u24ea]")
_VARIATION_SELECTOR = re.compile(r"[\ufe00-\ufe0f\U000e0100-\U000e01ef]")

_LONG = (
    (re.compile(rf"(?<=[{_KATAKANA}])[{_DASH}](?![{_DASH}])"), "ー"),
    (re.compile(rf"(?<=[\u3041-\u3096{_KATAKANA}])[{_WAVE}]+"), "ー"),
    (re.compile(r"ー{2,}"), "ー"),
)
_REPEATED_KANJI = re.compile(rf"(?<![{_KANJI}])([{_KANJI}]++)([々〻]+)")
_REPEATED_KANA = re.compile(r"([\u3041-\u3096\u30a1-\u30fa])([ゝゞヽヾ])")
_DAKUTEN = "\u3099"

_THOUSANDS = re.compile(r"(?<![0-9,.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])")
_AFTER_A_NUMBER = (
    (re.compile(rf"(?<={_NUMERAL})\s*%"), "パーセント"),
    (re.compile(rf"(?<={_NUMERAL})\s*°c?"), "度"),
    (re.compile(rf"¥\s*({_NUMERAL}+(?:\.[0-9]+)?)円?"), r"\1円"),
    (re.compile(rf"\$\s*({_NUMERAL}+(?:\.[0-9]+)?)(?:ドル)?"), r"\1ドル"),
    (re.compile(rf"(?<=[数何]|{_NUMERAL})[ヶヵケカ箇](?=[月所国条年村])"), "か"),
)
_FRACTION = re.compile(r"([0-9]+)\u2044([0-9]+)")
_CODE = re.compile(r"(?<![0-9.-])(?:0[0-9]+(?:-[0-9]+)+|[0-9]+(?:\.[0-9]+){2,})(?![0-9-])")
_DECIMAL = re.compile(r"([0-9]+)(?:\.([0-9]+))?")
_CIRCLE_FOR_ZERO = re.compile(rf"(?<=[{_DIGITS}])[○◯]")
_POSITIONAL = re.compile(rf"(?<![十百千])[{_DIGITS}]+(?![十百千])")
_YEAR = re.compile(rf"(?<![{_DIGITS}十百千万億])[{_DIGITS[1:]}]{{4}}(?=年)")
_ONE_THOUSAND = re.compile(rf"(?<![{_DIGITS}十百])一千(?=[万億兆京])")
_ZERO_POINT = re.compile(rf"[零〇](?=点[{_DIGITS}ゼ])")
_AFTER_A_POINT = re.compile(rf"[零ロ{_NUMERAL[1:-1]}]点$")
_MOST_DIGITS = 4 * len(_LARGE_UNITS)


class KikimimiJaV1(Normaliser):
    """Japanese as it is heard: one way to write numbers, widths, long vowels; no punctuation or white space.

    For character error rates of Japanese. What two people may write differently for the same sounds, and
    what can be told without knowing the word, becomes one:

    1. Unicode NFKC (full-width letters, half-width kana, circled digits, squared units), lower case, no
       variation selectors; 28 old and name forms of kanji become the common ones (U+9AD9 is U+9AD8).
    2. A dash after katakana and a wave after kana are long vowel marks; a row of marks is one.
    3. Iteration marks are written out, but not after numerals (U+4E09 U+3005 stays).
    4. Numbers become kanji as they are read: ``2,026`` and positional kanji with a zero, or of four
       digits before "year"; decimals digit by digit after a point; zero is written in katakana. Kanji
       numerals stay, so that idioms are never touched: the digits of 1-nin become those of the idiom.
       Digits that start with zero, groups of them with hyphens, and numbers of two points are read digit
       by digit, and so are those of more than 20 digits. A percent sign, degrees, yen and dollars at a
       number become words; the small ke of counters becomes ka.
    5. Punctuation, symbols, control characters and white space go; what stands in brackets stays.

    These steps are repeated until nothing changes. It does not make one of hiragana and katakana, kana
    and kanji, loanwords with and without a last long vowel, or units (km), as that needs the word or
    would forgive what is heard. docs/metrics.md has examples. Another behaviour will be another version.
    """

    def __call__(self, text: str) -> str:
        """Return the normalised text."""
        while (again := _once(text)) != text:
            text = again
        return text


def _once(text: str) -> str:
    text = _OTHER_NUMBER.sub(" \\g<0> ", _MIXED_FRACTION.sub("と", text))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    text = _VARIATION_SELECTOR.sub("", text).translate(_VARIANTS)
    for pattern, written in _LONG:
        text = pattern.sub(written, text)
    text = _REPEATED_KANA.sub(_repeat_kana, _REPEATED_KANJI.sub(_repeat_kanji, text))
    text = _numbers(text)
    return "".join(c for c in text if c != "〇" and unicodedata.category(c)[0] not in "PSZC")


def _numbers(text: str) -> str:
    text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    for pattern, written in _AFTER_A_NUMBER:
        text = pattern.sub(written, text)
    text = _FRACTION.sub(lambda found: f"{_read(found[2])}分の{_read(found[1])}", text)
    text = _CODE.sub(lambda found: _spell("".join(filter(str.isdigit, found[0]))), text)
    text = _DECIMAL.sub(_read_decimal, text)
    text = _POSITIONAL.sub(_read_positional, _CIRCLE_FOR_ZERO.sub("〇", text))
    text = _YEAR.sub(lambda found: _in_kanji(int(_as_ascii(found[0]))), text)
    return _ZERO_POINT.sub("ゼロ", _ONE_THOUSAND.sub("千", text))


def _repeat_kanji(found: re.Match[str]) -> str:
    """Write out as many kanji as there are marks, unless there are fewer, or one is a numeral."""
    before, count = found[1], len(found[2])
    repeated = before[-count:]
    if len(before) < count or set(repeated) <= set(_NUMERAL):
        return found[0]
    return before + repeated


def _repeat_kana(found: re.Match[str]) -> str:
    kana, mark = found[1], found[2]
    plain = unicodedata.normalize("NFD", kana)[0]
    return kana + unicodedata.normalize("NFC", plain + _DAKUTEN if mark in "ゞヾ" else plain)


def _read_decimal(found: re.Match[str]) -> str:
    whole, part = found[1], found[2]
    return f"{_read(whole)}点{_spell(part)}" if part else _read(whole)


def _read_positional(found: re.Match[str]) -> str:
    """Read kanji digits that a zero shows to be positional; others may be words, or one after the other."""
    kanji = found[0]
    if "〇" not in kanji or not kanji.strip("〇"):
        return kanji
    digits = _as_ascii(kanji)
    decimals = _AFTER_A_POINT.search(found.string, max(0, found.start() - 2), found.start())
    return _spell(digits) if decimals else _read(digits)


def _read(digits: str) -> str:
    """Return ASCII digits as they are read: a number, or one by one where they start with zero."""
    if digits.startswith("0") or len(digits) > _MOST_DIGITS:
        return _spell(digits)
    return _in_kanji(int(digits))


def _spell(digits: str) -> str:
    return "".join("ゼロ" if digit == "0" else _DIGITS[int(digit)] for digit in digits)


def _as_ascii(kanji: str) -> str:
    return "".join(str(_DIGITS.index(digit)) for digit in kanji)


def _in_kanji(number: int) -> str:
    """Return a number from 1 to 10 ** 20 - 1 in kanji, as it is read."""
    written = ""
    for unit in _LARGE_UNITS:
        number, four = divmod(number, 10_000)
        if four:
            written = _four_in_kanji(four) + unit + written
    return written


def _four_in_kanji(number: int) -> str:
    written = ""
    for unit in _SMALL_UNITS:
        number, digit = divmod(number, 10)
        if digit:
            written = ("" if digit == 1 and unit else _DIGITS[digit]) + unit + written
    return written
