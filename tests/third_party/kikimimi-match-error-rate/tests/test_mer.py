from __future__ import annotations

import pytest
from kikimimi_match_error_rate import MatchErrorRate

from kikimimi.testing import Check, parametrize_checks


@parametrize_checks(
    MatchErrorRate,
    words=MatchErrorRate.Config(),
    characters=MatchErrorRate.Config(unit="characters"),
)
def test_contract(check: Check) -> None:
    check()


def value(references: list[str], predictions: list[str]) -> float:
    metric = MatchErrorRate(MatchErrorRate.Config())
    found = [one for one in metric.measure(references, predictions) if one]
    return metric.value({name: sum(one[name] for one in found) for name in found[0]})


def test_what_is_inserted_does_not_exceed_all() -> None:
    """Of four aligned units, one matches: 75 %, where the word error rate is 300 %."""
    assert value(["yes"], ["yes I do think"]) == 75.0


def test_a_corpus_is_not_the_mean_of_its_utterances() -> None:
    # One of two, and none of eight: 1 of 10 and not 25 %. The empty reference is left out.
    assert value(["a b", "c d e f g h i j", ""], ["a x", "c d e f g h i j", "y"]) == 10.0


def test_words_need_white_space() -> None:
    with pytest.raises(ValueError, match="aligns words, but the normaliser removes the white space"):
        MatchErrorRate(MatchErrorRate.Config()).check(lambda text: text.replace(" ", ""))
    MatchErrorRate(MatchErrorRate.Config(unit="characters")).check(lambda text: text.replace(" ", ""))
