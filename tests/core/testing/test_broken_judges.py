"""Judges that each break the contract in one way, and the check that has to notice."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kikimimi import Judge, JudgeConfig, JudgePrompt, JudgeReply
from kikimimi.testing import Check, list_checks, parametrize_checks, run_checks
from kikimimi.testing.checks import FOR_JUDGES

OF_CONFIGS = {"config_is_a_frozen_dataclass", "config_is_documented", "config_survives_yaml"}
Replies = Iterator[tuple[int, JudgeReply]]


class Length(Judge):
    """Scores by length: the smallest judge that keeps the contract."""

    @dataclass(kw_only=True, frozen=True)
    class Config(JudgeConfig):
        unit: str
        """What is counted."""

    @classmethod
    def example(cls, folder: Path) -> Any:
        return cls.Config(unit="letters")

    def ask(self, prompts: Sequence[JudgePrompt]) -> Replies:
        for number, prompt in enumerate(prompts):
            yield number, JudgeReply(text=f"{len(prompt.text)} {self.config.unit}", tokens_in=1)


@parametrize_checks(Length)
def test_a_judge_of_ones_own_passes(check: Check) -> None:
    check()


class InAnyOrder(Length):
    def ask(self, prompts: Sequence[JudgePrompt]) -> Replies:
        yield from reversed(list(super().ask(prompts)))


def test_replies_may_come_in_any_order() -> None:
    """As the contract has it."""
    results = [check.result() for check in list_checks("judge", InAnyOrder) if "import" not in check.name]
    assert [result.error for result in results if result.error] == []


class ChangesItsName(Length):
    @classmethod
    def identity(cls, config: Any) -> str:
        return str(random.SystemRandom().random())


class OneName(Length):
    @classmethod
    def identity(cls, config: Any) -> str:
        return "length"


class NoNumbers(Length):
    def ask(self, prompts: Sequence[JudgePrompt]) -> Any:
        return iter([reply for _, reply in super().ask(prompts)])


class LeavesOneOut(Length):
    def ask(self, prompts: Sequence[JudgePrompt]) -> Replies:
        yield from list(super().ask(prompts))[1:]


class SaysItTwice(Length):
    def ask(self, prompts: Sequence[JudgePrompt]) -> Replies:
        for pair in super().ask(prompts):
            yield from (pair, pair)


class OnlyTexts(Length):
    def ask(self, prompts: Sequence[JudgePrompt]) -> Any:
        return ((number, reply.text) for number, reply in super().ask(prompts))


class CountsInHalves(Length):
    def ask(self, prompts: Sequence[JudgePrompt]) -> Replies:
        wrong: Any = 0.5
        return ((number, replace(reply, tokens_out=wrong)) for number, reply in super().ask(prompts))


class FailsWithoutAWord(Length):
    def ask(self, prompts: Sequence[JudgePrompt]) -> Replies:
        return ((number, replace(reply, failure="")) for number, reply in super().ask(prompts))


class ReadsAllAtOnce(Length):
    def ask(self, prompts: Sequence[JudgePrompt]) -> Replies:
        return super().ask([replace(one, text="".join(each.text for each in prompts)) for one in prompts])


class Moods(Length):
    def ask(self, prompts: Sequence[JudgePrompt]) -> Replies:
        mood = str(random.SystemRandom().random())
        return ((number, replace(reply, text=mood)) for number, reply in super().ask(prompts))


class NeedsWords(Length):
    def ask(self, prompts: Sequence[JudgePrompt]) -> Replies:
        for number, reply in super().ask(prompts):
            assert prompts[number].text.split()[0]
            yield number, reply


class AsksOnce(Length):
    asked = False

    def ask(self, prompts: Sequence[JudgePrompt]) -> Replies:
        if not self.asked:
            self.asked = True
            yield from super().ask(prompts)


BROKEN = [
    (ChangesItsName, "states_its_identity", "identity: expected the same text each time, found"),
    (OneName, "states_its_identity", "expected another text with another unit, found 'length' each time"),
    (NoNumbers, "prompts_have_one_reply_each", "expected the number of a prompt and its reply, found Judge"),
    (LeavesOneOut, "prompts_have_one_reply_each", "a reply to each of 3 prompts, found [1, 2]"),
    (SaysItTwice, "prompts_have_one_reply_each", "expected each of 3 prompts once, found 0 after [0]"),
    (OnlyTexts, "prompts_have_one_reply_each", "expected a JudgeReply, found str"),
    (CountsInHalves, "prompts_have_one_reply_each", "tokens_out: expected a number of tokens, found 0.5"),
    (FailsWithoutAWord, "prompts_have_one_reply_each", "failure: expected a reason, or None, found ''"),
    (Moods, "order_changes_nothing", "the same prompts a second time: expected"),
    (ReadsAllAtOnce, "order_changes_nothing", "the same prompts one by one: expected"),
    (NeedsWords, "odd_texts_are_taken_or_refused", "IndexError: list index out of range"),
    (ReadsAllAtOnce, "odd_texts_are_taken_or_refused", "beside ' \\n': expected"),
    (AsksOnce, "can_be_stopped", "asked again: expected 3 replies, found 0"),
]


@pytest.mark.parametrize(("component", "name", "message"), BROKEN)
def test_is_caught(component: type, name: str, message: str) -> None:
    result = next(one for one in list_checks("judge", component) if one.name == name).result()
    assert message in (result.error or "")


def test_every_check_has_something_to_catch() -> None:
    names = {check.__name__ for check in FOR_JUDGES} - OF_CONFIGS - {"import_is_quiet"}
    assert {name for _, name, _ in BROKEN} == names


def test_what_was_not_tried_is_said() -> None:
    class Bare(Length):
        @classmethod
        def example(cls, folder: Path) -> None:
            return None

    results = {result.name: result for result in run_checks("judge", Bare)}
    assert {result.error for result in results.values()} == {None}
    assert results["can_be_stopped"].not_tried == "Bare.example gives no judge that can be asked here"
