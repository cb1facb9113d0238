"""BLEU and chrF are sacrebleu's own, from sums of what was counted of each utterance."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import pytest
import sacrebleu

from kikimimi.contracts.metric import Metric, open_metric
from kikimimi.errors import MissingExtraError, RequestError
from kikimimi.testing import Check, parametrize_checks
from kikimimi_metrics.bleu import Bleu
from kikimimi_metrics.chrf import Chrf

ENGLISH = (
    ["The cat sat on the mat.", "It's raining, isn't it?", "Hello there, General Kenobi!", "Yes."],
    ["The cat is sitting on the mat.", "It is raining, isn't it?", "Hello, General Kenobi", "No, thank you."],
)
JAPANESE = (
    ["今日は良い天気ですね。", "明日の朝、8時に駅で会いましょう。", "東京へ行くのは、初めてです。"],
    ["今日はいい天気ですね。", "明日の朝8時に駅で会います。", "東京に行くのは初めてだ。"],
)
HAS_MECAB = importlib.util.find_spec("MeCab") and importlib.util.find_spec("ipadic")
needs_mecab = pytest.mark.skipif(not HAS_MECAB, reason="needs the extra mecab")


@parametrize_checks(Bleu, plain=Bleu.Config(), characters=Bleu.Config(tokenize="char", lowercase=True))
def test_contract_of_bleu(check: Check) -> None:
    check()


@parametrize_checks(Chrf, chrf=Chrf.Config(), plus=Chrf.Config(word_order=2))
def test_contract_of_chrf(check: Check) -> None:
    check()


def value(metric: Metric, texts: tuple[Sequence[str], Sequence[str]]) -> float:
    found = [details for details in metric.measure(*texts) if details is not None]
    return metric.value({name: sum(details[name] for details in found) for name in found[0]})


@pytest.mark.parametrize(
    ("texts", "options"),
    [
        (ENGLISH, {}),
        (ENGLISH, {"tokenize": "intl"}),
        (ENGLISH, {"tokenize": "none"}),
        (ENGLISH, {"tokenize": "char", "lowercase": True}),
        (ENGLISH, {"max_ngram_order": 2}),
        (JAPANESE, {"tokenize": "char"}),
        pytest.param(JAPANESE, {"tokenize": "ja-mecab"}, marks=needs_mecab),
    ],
)
def test_bleu_is_that_of_sacrebleu(texts: Any, options: Any) -> None:
    theirs = sacrebleu.BLEU(**options).corpus_score(texts[1], [texts[0]]).score
    assert 10 < theirs < 90
    assert value(Bleu(Bleu.Config(**options)), texts) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("texts", [ENGLISH, JAPANESE])
@pytest.mark.parametrize("options", [{}, {"beta": 3, "char_order": 4}, {"lowercase": True}])
def test_chrf_is_that_of_sacrebleu(texts: Any, options: Any) -> None:
    theirs = sacrebleu.CHRF(**options).corpus_score(texts[1], [texts[0]]).score
    assert 10 < theirs < 90
    assert value(Chrf(Chrf.Config(**options)), texts) == pytest.approx(theirs, abs=1e-9)


def test_chrf_of_words_is_that_of_sacrebleu() -> None:
    theirs = sacrebleu.CHRF(word_order=2).corpus_score(ENGLISH[1], [ENGLISH[0]]).score
    assert value(Chrf(Chrf.Config(word_order=2)), ENGLISH) == pytest.approx(theirs, abs=1e-9)


def test_by_hand() -> None:
    """Two of three words, one of two pairs, and an answer as long as its reference."""
    metric = Bleu(Bleu.Config(max_ngram_order=2))
    (details,) = metric.measure(["a b c"], ["a b d"])
    assert details == {
        "prediction_length": 3,
        "reference_length": 3,
        "matches_1": 2,
        "matches_2": 1,
        "ngrams_1": 3,
        "ngrams_2": 2,
    }
    assert metric.value(details) == pytest.approx(100 * (2 / 3 * 1 / 2) ** 0.5)


@pytest.mark.parametrize("tokenize", ["13a", "intl", "zh"])
def test_japanese_is_not_taken_for_one_word(tokenize: Any) -> None:
    text = "このチョコレートはとてもおいしいですよね"
    metric = Bleu(Bleu.Config(tokenize=tokenize))
    with pytest.raises(ValueError, match=r"has none there: set tokenize: ja-mecab or char \(none if words"):
        metric.measure([text], ["x"])
    assert metric.measure(["この チョコレート は おいしい"], ["x"]) != [None]
    with pytest.raises(ValueError, match="has none there: set word_order: 0"):
        Chrf(Chrf.Config(word_order=2)).measure([text], ["x"])


def test_an_empty_reference_is_left_out() -> None:
    for metric in (Bleu(Bleu.Config()), Chrf(Chrf.Config())):
        assert metric.measure([" "], ["x"]) == [None]


@needs_mecab
def test_words_of_mecab() -> None:
    (details,) = Bleu(Bleu.Config(tokenize="ja-mecab")).measure(["今日は良い天気です"], ["天気です"])
    assert details is not None
    assert (details["reference_length"], details["matches_1"], details["matches_2"]) == (5, 2, 1)


def test_what_to_install_for_mecab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    with pytest.raises(MissingExtraError, match=r"tokenize: ja-mecab needs .* 'kikimimi\[mecab\]'"):
        Bleu(Bleu.Config(tokenize="ja-mecab"))


@pytest.mark.parametrize(
    ("metric", "config", "message"),
    [
        ("bleu", Bleu.Config(), "tokenize: 13a looks for words between white space, which the normaliser"),
        ("chrf", Chrf.Config(word_order=2), "word_order: looks for words between white space"),
    ],
)
def test_a_normaliser_that_joins_words_is_refused(metric: str, config: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_metric(metric, "whisper-basic-nospace", config)
    open_metric(metric, "none", config)
    open_metric("bleu", "whisper-basic-nospace", Bleu.Config(tokenize="char"))
    open_metric("chrf", "whisper-basic-nospace")
