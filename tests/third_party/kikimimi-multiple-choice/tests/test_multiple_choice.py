from __future__ import annotations

from random import Random
from typing import Any

import pytest
from kikimimi_multiple_choice import MultipleChoice

from kikimimi.testing import Check, parametrize_checks

RECORD = {"question": "Which is heard?", "choices": ["cat", "dog", "cow"], "answer": "dog"}


@parametrize_checks(
    MultipleChoice,
    default=MultipleChoice.Config(),
    letters=MultipleChoice.Config(answer="letter", shuffle=False),
)
def test_contract(check: Check) -> None:
    check()


def converse(rng: Random | None, **options: Any) -> tuple[str, str]:
    task = MultipleChoice(MultipleChoice.Config(**options))
    found = task.conversation(dict(RECORD), ["0.flac"], rng)
    return found.messages[0].parts[1].text or "", found.reference()


def test_in_evaluation_the_choices_stand_as_they_are() -> None:
    asked = "Which is heard?\nChoose the right answer.\n(A) cat\n(B) dog\n(C) cow"
    assert converse(None) == (asked, "(B) dog")
    assert converse(None, answer="letter") == (asked, "(B)")
    assert converse(Random(0), shuffle=False) == (asked, "(B) dog")


def test_labels_may_stand_in_meta() -> None:
    """That is where packing keeps what a corpus says of its clips."""
    task = MultipleChoice(MultipleChoice.Config())
    beside = task.conversation({"text": "woof", "meta": RECORD}, ["0.flac"], None)
    assert beside.messages == task.conversation(dict(RECORD), ["0.flac"], None).messages


def test_in_training_the_answer_stands_anywhere_and_its_letter_with_it() -> None:
    found = [converse(Random(seed)) for seed in range(30)]
    assert {answer for _, answer in found} == {"(A) dog", "(B) dog", "(C) dog"}
    assert all(f"\n{answer}" in asked for asked, answer in found)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answer": "fox"}, r"answer: expected one of the choices \(cat, dog, cow\), found 'fox'"),
        ({"choices": ["dog"]}, "choices: expected 2 to 26 texts, found"),
        ({"choices": ["dog", "dog "]}, "choices: expected each text once, found"),
        ({"question": " "}, "question: expected a text, found ' '"),
        ({"meta": ["MMAU"]}, "meta: expected a mapping, found"),
    ],
)
def test_records_that_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultipleChoice(MultipleChoice.Config()).conversation(RECORD | changed, ["0.flac"], None)
