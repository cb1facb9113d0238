from __future__ import annotations

from typing import Any

import pytest

from kikimimi.contracts.metric import open_metric
from kikimimi.errors import RequestError
from kikimimi.testing import Check, parametrize_checks
from kikimimi_metrics.accuracy import Accuracy

LETTERS = Accuracy.Config(choices="ABCD")
MOODS = Accuracy.Config(labels=["happy", "sad", "not sure"])
KIBUN = Accuracy.Config(labels=["嬉しい", "悲しい", "少し悲しい"])


@parametrize_checks(Accuracy)
def test_contract(check: Check) -> None:
    check()


def measured(config: Accuracy.Config, reference: str, prediction: str) -> dict[str, float]:
    (details,) = Accuracy(config).measure([reference], [prediction])
    assert details is not None
    return dict(details)


def test_the_value_is_a_share() -> None:
    metric = Accuracy(Accuracy.Config())
    found = metric.measure(["yes", "no ", "はい", ""], ["yes", "no", "ハイ", "x"])
    assert found == [
        {"answers": 1, "right": 1},
        {"answers": 1, "right": 1},
        {"answers": 1, "right": 0},
        None,
    ]
    assert metric.value({"answers": 3, "right": 2}) == pytest.approx(66.6667, abs=1e-3)


NAMES_B = """\
B
b
b.
(b)
B)
**B**
「B」
B) Tokyo
b) Tokyo
B. Tokyo
b: Tokyo
B、東京
[B] Tokyo
Ｂ
（Ｂ）東京
The answer is B.
The answer is b
The answer is (b), because it rains.
the answer is B because it rains
Answer: b
The answer is: b
So the answer is \\boxed{B}.
答えは、bです
The correct answer is option B.
I choose B.
I think option b
A good question. I say B.
答えはBです
答えはＢです。
答え：b
正解は「B」だと思います。
選択肢Bが正しいです
Bが正解です。
B is correct.
b番が正解
Bです
Bだ。
それはBでしょう"""


@pytest.mark.parametrize("answer", NAMES_B.split("\n"))
def test_answers_that_name_a_choice(answer: str) -> None:
    assert measured(LETTERS, "B", answer) == {"answers": 1, "right": 1, "unclear": 0}
    assert measured(LETTERS, "C", answer)["right"] == 0


def test_a_choice_over_lines_and_said_twice() -> None:
    assert measured(LETTERS, "(B) Tokyo", "It is the capital.\nB) Tokyo\nSo the answer is B.")["right"] == 1


UNCLEAR = """\
A or B
A and B
(A) or (B)
The answer is A, not B.
AとB
答えはAかBです
a dog
A dog barks.
The answer is a dog.
It barks. A dog does.
Tokyo
東京です
B-52
Plan-B
vitamin B12
CD
both a and b
"""


@pytest.mark.parametrize("answer", UNCLEAR.split("\n"))
def test_answers_that_name_none_or_two(answer: str) -> None:
    assert measured(LETTERS, "B", answer) == {"answers": 1, "right": 0, "unclear": 1}


@pytest.mark.parametrize(
    ("choices", "reference", "answer", "right"),
    [
        ("ABCD", "A", "A is correct.", 1),
        ("ABCD", "A", "The answer is A because it rains.", 1),
        ("1234", "2", "2", 1),
        ("1234", "2", "2番です。", 1),
        ("1234", "2", "答えは2です", 1),
        ("1234", "2", "2. 東京", 1),
        ("1234", "2", "(2)", 1),
        ("1234", "2", "人は2人います", 0),
        ("1234", "2", "2.5", 0),
        ("1234", "2", "答えは23です", 0),
        ("アイウエ", "イ", "答えはイです", 1),
        ("アイウエ", "ア", "アメリカ", 0),
        ("アイウエ", "ア", "(ア)アメリカ", 1),
        ("ABCDEFGHI", "B", "I think it is B", 1),
        ("ABCDEFGHI", "I", "The answer is I.", 1),
    ],
)
def test_digits_and_katakana(choices: str, reference: str, answer: str, right: int) -> None:
    assert measured(Accuracy.Config(choices=choices), reference, answer)["right"] == right


@pytest.mark.parametrize(
    ("config", "reference", "answer", "right", "unclear"),
    [
        (MOODS, "happy", "Happy", 1, 0),
        (MOODS, "Happy", "The speaker sounds very happy, yes: happy.", 1, 0),
        (MOODS, "happy", "unhappy", 0, 1),
        (MOODS, "sad", "happy or sad", 0, 1),
        (MOODS, "not sure", "I am NOT SURE.", 1, 0),
        (MOODS, "sad", "", 0, 1),
        (KIBUN, "悲しい", "悲しい声です。", 1, 0),
        (KIBUN, "少し悲しい", "少し悲しい声です。", 1, 0),
        (KIBUN, "悲しい", "嬉しいような悲しいような", 0, 1),
    ],
)
def test_labels(config: Any, reference: str, answer: str, right: int, unclear: int) -> None:
    assert measured(config, reference, answer) == {"answers": 1, "right": right, "unclear": unclear}


@pytest.mark.parametrize(
    ("config", "reference", "message"),
    [
        (LETTERS, "Tokyo", "reference 'Tokyo' names 0 choices of ABCD, and has to name one"),
        (LETTERS, "A or B", "reference 'A or B' names 2 choices of ABCD"),
        (MOODS, "hapy", r"reference 'hapy' is none of the labels. Did you mean 'happy'\? Labels: happy, not"),
    ],
)
def test_references_that_name_none(config: Any, reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Accuracy(config).measure([reference], ["B"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"choices": "AB", "labels": ["x", "y"]},
            "choices: what is looked for is choices or labels, not both",
        ),
        ({"choices": "A"}, "choices: 'A' is no row of two or more capital letters, digits or katakana"),
        ({"choices": "abc"}, "choices: 'abc' is no row of two or more capital letters"),
        ({"choices": "AAB"}, "choices: A, A, B holds one twice"),
        ({"labels": ["Sad", "sad"]}, "labels: sad, sad holds one twice, whatever its case"),
        ({"labels": ["sad"]}, "labels: one label is no choice: name two or more"),
    ],
)
def test_options_that_are_wrong(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Accuracy.Config(**options)


@pytest.mark.parametrize(
    ("config", "normaliser", "message"),
    [
        (LETTERS, "whisper-basic-nospace", r"choices: the normaliser makes 'x' of '\(A\) x', which does not"),
        (
            MOODS,
            "whisper-basic-nospace",
            "labels: 'happy' is looked for as a word, and the normaliser removes",
        ),
        (
            Accuracy.Config(labels=["嬉しい。", "悲しい"]),
            "whisper-basic-nospace",
            "labels: the normaliser makes '嬉しい' of '嬉しい。': write that, or",
        ),
    ],
)
def test_normalisers_that_do_not_go_with_it(config: Any, normaliser: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_metric("accuracy", normaliser, config)
    open_metric("accuracy", "none", config)


def test_japanese_labels_need_no_spaces() -> None:
    metric, normalise = open_metric("accuracy", "whisper-basic-nospace", KIBUN)
    assert metric.measure(["嬉しい"], [normalise("とても、嬉しい！")]) == [
        {"answers": 1, "right": 1, "unclear": 0}
    ]
