from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

from kikimimi.contracts.registry import load
from kikimimi_normalisers.kikimimi_ja_v1 import KikimimiJaV1

NORMALISE = KikimimiJaV1()
SAME = [
    # Numbers.
    ("2026年", "２０２６年", "二〇二六年", "二○二六年", "二千二十六年", "2,026年"),
    ("1945年", "一九四五年", "千九百四十五年"),
    ("昭和20年", "昭和二〇年", "昭和二十年"),
    ("1,000円", "１，０００円", "¥1,000", "￥1000円", "一〇〇〇円", "千円"),
    ("1000万", "1,000万", "千万", "一千万", "一〇〇〇万"),
    ("1万5000人", "1万5,000人", "15000人", "一五〇〇〇人", "一万五千人"),
    ("1億2000万", "120000000", "一億二千万"),
    ("3.14", "３．１４", "三点一四", "3点1四"),
    ("0.05", "零点〇五", "〇点〇五", "ゼロ点ゼロ五"),
    ("10%", "１０％", "十%", "10パーセント"),
    ("20℃", "20°C", "20度", "二十度"),
    ("$5", "5ドル", "五ドル"),
    ("½", "二分の一"),
    ("1½", "一と二分の一"),
    ("0120-444-555", "0120444555", "〇一二〇四四四五五五"),
    ("①と②", "1と2", "一と二"),
    ("3ヶ月", "三か月", "3カ月", "３ヵ月", "三ケ月", "三箇月"),
    ("数ヶ国", "数か国"),
    # Idioms, and what stands for one as digits.
    ("一人で一番の三日月", "1人で1番の3日月"),
    ("十分", "10分"),
    ("二、三日", "2、3日", "2〜3日", "2,3日"),
    ("三々五々", "三々五々"),
    # Widths, case, marks.
    ("コーヒー", "ｺｰﾋｰ", "コ—ヒ―", "コーーヒーー", "コー ヒー"),
    ("ですよねー", "ですよね〜", "ですよね～～", "ですよね、ー！"),
    ("人々", "人人"),
    ("部分々々", "部分部分"),
    ("一歩々々", "一歩一歩"),
    ("いすゞとこゝろとバナヽ", "いすずとこころとバナナ"),
    ("髙橋と山﨑と渡邉", "高橋と山崎と渡辺"),
    ("葛\U000e0100城", "葛城"),
    ("ＡＢＣ　ａｂｃ", "abcABC"),
    ("「はい」、（笑）！", "はい笑"),
    ("か\u3099き゛", "がぎ"),
    ("㍻㌔", "平成キロ"),
]
APART = [
    ("わたし", "ワタシ", "私"),
    ("コンピュータ", "コンピューター"),
    ("5km", "5キロ"),
    ("23日", "二三日"),
    ("一千円", "千円"),
    ("ヴァイオリン", "バイオリン"),
    ("がん", "かん"),
    ("零下", "ゼロ下"),
    ("霞ヶ関", "霞が関"),
    ("30分", "3分"),
    ("三千", "三万"),
]


@pytest.mark.parametrize("texts", SAME, ids=lambda texts: texts[0])
def test_ways_to_write_one_thing(texts: tuple[str, ...]) -> None:
    assert len({NORMALISE(text) for text in texts}) == 1


@pytest.mark.parametrize("texts", APART, ids=lambda texts: texts[0])
def test_what_is_not_made_one(texts: tuple[str, ...]) -> None:
    assert len({NORMALISE(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026年11月29日", "二千二十六年十一月二十九日"),
        ("三日月を一人で見た。", "三日月を一人で見た"),
        ("1.5万", "一点五万"),
        ("10:30", "十三十"),
        ("1.2.3", "一二三"),
        ("090-1234-5678", "ゼロ九ゼロ一二三四五六七八"),
        ("3.10", "三点一ゼロ"),
        ("10,0000", "十ゼロゼロゼロゼロ"),
        ("1" + "0" * 19, "千京"),
        ("1" + "0" * 20, "一" + "ゼロ" * 20),
        ("11111", "一万千百十一"),
        ("四五人と一二三", "四五人と一二三"),
        ("〇〇さんに〇×", "さんに"),
        ("ドア——その", "ドアその"),
        ("ドア-その", "ドアーその"),
        ("千々に百々さん、一々万々歳", "千々に百々さん一々万々歳"),
        ("-5度", "五度"),
        ("", ""),
        ("。。", ""),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert NORMALISE(text) == expected


def test_numbers_are_read_as_num2words_reads_them() -> None:
    num2words = pytest.importorskip("num2words").num2words
    numbers = [*range(1, 2000), *range(9_990, 10_050), *(7 * 10**n + 10 ** (n // 2) for n in range(18))]
    assert [n for n in numbers if NORMALISE(f"約{n}個") != f"約{num2words(n, lang='ja')}個"] == []


def test_once_is_enough_for_every_character() -> None:
    points = [*range(0x3400), *range(0xF900, 0x10000), *range(0x3400, sys.maxunicode, 97)]
    once = {point: NORMALISE(f"カ{chr(point)}1") for point in points if not 0xD800 <= point < 0xE000}
    assert [hex(point) for point, text in once.items() if NORMALISE(text) != text] == []


PIECES = "一二三四九〇零十百千万億点年々ゝゞー〜—-~・、.,1 0%¥$°cC½²①ヶか月カがすズ゛ゼロ人部髙aA\u3099\u0301"


@settings(deadline=None, max_examples=300)
@given(st.text(st.one_of(st.sampled_from(PIECES), st.characters()), max_size=20))
@example("1 9 4 5年")
@example("二 〇〇")
@example("1 千万")
@example("す ゝ")
def test_once_is_enough(text: str) -> None:
    once = NORMALISE(text)
    assert NORMALISE(once) == once
    assert not re.search("[0-9〇 、。,.%]", once)


@pytest.mark.parametrize(
    "text", ["9" * 10_000, "一〇" * 5000, "人" + "々" * 5000, "人" * 5000 + "々", "1," * 5000]
)
def test_a_text_without_end_is_taken(text: str) -> None:
    assert len(NORMALISE(text)) > 100


def test_is_registered() -> None:
    assert load("normaliser", "kikimimi-ja-v1") is KikimimiJaV1


PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_table_of_the_page() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]*)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(rows) > 20
    assert [(written, NORMALISE(written)) for written, _ in rows] == rows
