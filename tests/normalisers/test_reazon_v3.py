import pytest

from kikimimi.contracts.registry import load
from kikimimi_normalisers.reazon_v3 import ReazonV3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("「はい」、『いいえ』。", "はいいいえ"),
        ("え？！ほんと?!ａ，b,", "えほんとab"),
        ("ＡＢＣｘｙｚＺ", "ABCxyzZ"),
        ("2024年", "二千二十四年"),
        ("１，０００円", "千円"),
        ("3.14と0", "三点一四と零"),
        ("12.", "十二"),
        ("版1.2.3", "版一点二.三"),
        ("9" * 51, None),
        # What the definition leaves alone: case, white space, half-width kana, other symbols.
        ("Ab ｶ（笑）・ー", "Ab ｶ（笑）・ー"),
        ("", ""),
    ],
)
def test_examples(text: str, expected: str | None) -> None:
    normalised = ReazonV3()(text)
    if expected is None:
        assert not any(character.isdigit() for character in normalised)
    else:
        assert normalised == expected


@pytest.mark.parametrize("digits", [52, 73, 6000])
def test_a_number_too_large_for_words_stays(digits: int) -> None:
    number = "1" + "0" * (digits - 1)
    assert ReazonV3()(f"約{number}個") == f"約{number}個"


def test_is_registered() -> None:
    assert load("normaliser", "reazon-v3") is ReazonV3
