from __future__ import annotations

import pickle

import pytest
from hypothesis import given, strategies as st

from kikimimi.contracts.answer import THINKING, Answer, answer_text, open_thought, without_thoughts


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("<think>\n\n</think>\n\nはい", "はい"),
        ("<think>どうかな</think>はい", "はい"),
        ("どうかな\n</think>\n\nはい", "はい"),
        ("<think>どうかな", ""),
        ("</think>", ""),
        ("<think>a<think>b</think>c</think>d", "d"),
        ("a<think>b</think>c<think>d", "ac"),
        ("[THINK]so[/THINK] はい", "はい"),
        ("<seed:think>so</seed:think>はい", "はい"),
        ("1 < 2 <thin> はい", "1 < 2 <thin> はい"),
        (" はい\n", "はい"),
    ],
)
def test_what_is_scored(written: str, kept: str) -> None:
    assert answer_text(written) == kept
    assert Answer(written, cut=True).spoken == kept
    assert Answer(written, cut=True).spoken.cut is True


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", " ", "[THINK]"]), max_size=8).map("".join))
def test_nothing_of_a_thought_is_left(written: str) -> None:
    kept = without_thoughts(written)
    assert not any(tag in kept for pair in THINKING for tag in pair)
    assert without_thoughts(kept) == kept


def test_texts_without_thoughts_stay_as_they_are() -> None:
    assert without_thoughts(" あ \n") == " あ \n"


def test_open_thoughts() -> None:
    assert open_thought("a<think>\n") == "<think>"
    assert open_thought("<think>a</think>") is None
    assert open_thought("") is None


def test_an_answer_is_a_text() -> None:
    answer = Answer(" はい ", cut=True)
    assert (answer, answer.cut) == (" はい ", True)
    assert Answer("x").cut is None
    again = pickle.loads(pickle.dumps(answer.stripped))
    assert (again, again.cut) == ("はい", True)
