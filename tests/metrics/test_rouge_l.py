from __future__ import annotations

import pytest

from kikimimi.contracts.metric import open_metric
from kikimimi.errors import RequestError
from kikimimi.testing import Check, parametrize_checks
from kikimimi_metrics.rouge_l import RougeL

CHARACTERS = RougeL.Config(tokenize="characters")
PAIRS = [
    ("A dog barks while birds sing.", "Birds sing and a dog is barking"),
    ("Rain falls on a tin roof", "rain is falling on the roof of a house"),
    ("Someone's typing on a keyboard, fast!", "someone types on the key-board"),
    ("The engine hums 2 times; the engine stops", "the the the engine stops 2 times"),
    ("A man speaks", ""),
    ("A man speaks", "a man speaks"),
    ("Music plays", "silence"),
]


@parametrize_checks(RougeL, words=RougeL.Config(), characters=CHARACTERS)
def test_contract(check: Check) -> None:
    check()


def f1(config: RougeL.Config, reference: str, prediction: str) -> float | None:
    (details,) = RougeL(config).measure([reference], [prediction])
    return None if details is None else details["f1"]


def test_by_hand() -> None:
    # In common and in order: "a dog" of 4 and 5 words.
    assert f1(RougeL.Config(), "a dog barks loudly", "there is a black dog") == pytest.approx(2 * 2 / 9)
    # In common and in order: 犬, が, る of 5 and 6 characters; the full stop plays no part.
    assert f1(CHARACTERS, "犬が吠える。", "犬がいている") == pytest.approx(2 * 3 / 11)
    metric = RougeL(RougeL.Config())
    assert metric.value({"texts": 2, "f1": 1.5}) == 75


def test_a_reference_without_words_is_left_out() -> None:
    assert RougeL(RougeL.Config()).measure(["...", ""], ["a", "a"]) == [None, None]


def test_equals_rouge_score() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    theirs = [scorer.score(reference, prediction)["rougeL"].fmeasure for reference, prediction in PAIRS]
    ours = [f1(RougeL.Config(), reference, prediction) for reference, prediction in PAIRS]
    assert ours == pytest.approx(theirs)


# What rouge-score 0.1.2 gives for PAIRS, for where it is not installed.
GIVEN = [0.3076923077, 0.4, 0.3076923077, 0.5333333333, 0, 1, 0]


def test_equals_what_rouge_score_gave() -> None:
    assert [f1(RougeL.Config(), *pair) for pair in PAIRS] == pytest.approx(GIVEN)


def test_japanese_is_not_taken_for_one_word() -> None:
    with pytest.raises(ValueError, match="has none there: set tokenize: characters"):
        RougeL(RougeL.Config()).measure(["犬が大きな声で吠えている。"], ["犬"])


def test_a_normaliser_that_joins_words_is_refused() -> None:
    with pytest.raises(RequestError, match="tokenize: words looks for words between white space"):
        open_metric("rouge_l", "whisper-basic-nospace")
    open_metric("rouge_l", "whisper-basic-nospace", CHARACTERS)
