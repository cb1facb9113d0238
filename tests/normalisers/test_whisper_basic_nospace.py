import re
import sys

import pytest
from hypothesis import given, strategies as st
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from kikimimi.contracts.registry import load
from kikimimi_normalisers.whisper_basic_nospace import WhisperBasicNoSpace

UPSTREAM = BasicTextNormalizer()


def upstream(text: str) -> str:
    return re.sub(r"\s", "", UPSTREAM(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今日は、いい 天気。", "今日はいい天気"),
        ("[拍手]はい(笑い)です<unk>", "はいです"),
        ("（笑い）はい", "笑いはい"),  # full-width brackets become ASCII only after bracketed parts are gone
        ("ＡＢＣ１２３ ｶﾞｷﾞ", "abc123ガギ"),
        ("㍻コーヒー々", "平成コーヒー々"),
        ("がぎぐ", "がぎぐ"),
        ("㎒", "mhz"),
        ("a\u3000b\tc\n", "abc"),
        ("10%の♪", "10の"),
        ("", ""),
        ("。。", ""),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert WhisperBasicNoSpace()(text) == expected
    assert upstream(text) == expected


def test_equals_upstream_on_every_character() -> None:
    normalise = WhisperBasicNoSpace()
    # Between letters, so that one that joins its neighbours shows; ideographs and other planes in steps.
    code_points = [*range(0x3400), *range(0xF900, 0x10000), *range(0x3400, sys.maxunicode, 97)]
    differing = [
        hex(point) for point in code_points if normalise(f"a{chr(point)}b") != upstream(f"a{chr(point)}b")
    ]
    assert differing == []


@given(st.text(st.one_of(st.characters(), st.sampled_from("[]<>()（） aAアｱﾞ。")), max_size=30))
def test_equals_upstream_on_any_text(text: str) -> None:
    assert WhisperBasicNoSpace()(text) == upstream(text)


def test_is_registered() -> None:
    assert load("normaliser", "whisper-basic-nospace") is WhisperBasicNoSpace
