"""What answers are, by characters and patterns."""

from __future__ import annotations

import pytest

from kikimimi.guards.wording import (
    drifts,
    has_words,
    holds_answer,
    refuses,
    same_text,
    script_of,
)


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry. I cannot hear audio.",
        "I am very sorry, no.",
        "As an AI language model, I have no ears.",
        "Unfortunately, I am unable to process audio files.",
        "I apologize for the inconvenience.",
        "I do not have the ability to listen.",
        "申し訳ありませんが、お答えできません。",
        "申し訳ございません。",
        "すみませんが、わかりません。",
        "その質問には答えられません。",
        "音声を再生することはできません。",
        "AIとして、音声を聞くことはできません。",
        "知りません。",
        "<think>easy</think>I cannot say.",
    ],
)
def test_refusals(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Paris",
        "東京です。",
        "",
        "The sorry state of the roads was discussed.",
        "Cannot is a verb.",
        "駅まで歩いて行きました。",
        "<think>I cannot say that.</think>Paris",
        f"{'It is a long story. ' * 6}I cannot go on.",
    ],
)
def test_answers_that_refuse_nothing(answer: str) -> None:
    assert not refuses(answer)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("", False),
        (" 。、!? ", False),
        ("(silence)", False),
        ("（無音）", False),
        ("[noise] *hum*", False),
        ("【音楽】", False),
        ("<think>nothing is said</think>", False),
        ("はい", True),
        ("(noise) yes", True),
        ("3", True),
    ],
)
def test_words(answer: str, found: bool) -> None:
    assert has_words(answer) is found


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("東京です", "ja"),
        ("ﾄｳｷｮｳ", "ja"),
        ("人々", "ja"),
        ("Tokyo", "en"),
        ("Ｔｏｋｙｏ", "en"),
        ("café", "en"),
        ("Москва", None),
        ("서울", None),
        ("12", None),
        ("", None),
        ("AIは人工知能です", "ja"),
    ],
)
def test_scripts(text: str, script: str | None) -> None:
    assert script_of(text) == script


def test_drift_is_of_letters_alone() -> None:
    assert drifts("Tokyo", "ja")
    assert drifts("東京", "en")
    assert drifts("서울", "ja")
    assert not drifts("東京", "ja")
    assert not drifts("12", "ja")
    assert not drifts("", "en")


def test_the_same_text_but_for_a_fifth() -> None:
    assert same_text("横浜へ行きます。", "横浜へ行きます")
    assert same_text("0123456789", "01234567XX")
    assert not same_text("0123456789", "0123456XXX")
    assert not same_text("", "")
    assert not same_text("", "はい")


def test_answers_that_hold_a_word() -> None:
    assert holds_answer("It is PARIS, of course.", ["paris"])
    assert holds_answer("答えは東京です。", ["東京"])
    assert holds_answer("１２か月", ["十二", "12"])
    assert not holds_answer("312", ["12"])
    assert not holds_answer("Parisian", ["Paris"])
    assert not holds_answer("<think>Paris</think>Rome", ["Paris"])
