"""Ranks that share the work of answering."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch import distributed

from kikimimi import Answer, Conversation, Generation, Message, TextPart
from kikimimi.errors import DataError, KikimimiError
from kikimimi.inference import ranks
from kikimimi.inference.engine import Prompt
from kikimimi.inference.ranks import Ranks

ASKED = Conversation((Message("user", (TextPart("?"),)),))


class Named:
    """Answers with the names of prompts; knows no answer to one."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def answer(self, prompts: Sequence[Prompt], *_: object) -> list[Answer]:
        if any(prompt.name == "bad" for prompt in prompts):
            raise DataError("bad: it has no room")
        return [Answer(prompt.name) for prompt in prompts]


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> list[Ranks]:
    """Three ranks, of which the first is asked last: it finds what the others gave."""
    given: list[Any] = [None] * 3
    place = SimpleNamespace(rank=0)

    def gather(part: Any, parts: list[Any] | None, *_: object) -> None:
        given[place.rank] = part
        if parts is not None:
            parts[:] = given

    made = []
    monkeypatch.setattr(ranks, "Engine", Named)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(distributed, "gather_object", gather)
    for rank in range(3):
        one = cast(Any, Ranks.__new__(Ranks))
        one.leads, one._group, one._model, one._cpu = rank == 0, None, object(), True
        whole = one.answer_part

        def part(*asked: Any, rank: int = rank, whole: Any = whole) -> Any:
            place.rank = rank
            monkeypatch.setattr(distributed, "get_rank", lambda: rank)
            return whole(*asked)

        one.answer_part = part
        made.append(one)
    return made[::-1]


def asked(names: str) -> tuple[str, int, list[Prompt], Generation, int]:
    return "fp32", 0, [Prompt(name, ASKED, []) for name in names.split()], Generation(), 8


@pytest.mark.parametrize("names", ["a b c d e f g", "a b", "a"])
def test_answers_come_in_the_order_of_prompts_whoever_gave_them(three: list[Ranks], names: str) -> None:
    *others, first = three
    assert [rank.answer_part(*asked(names)) for rank in others] == [[], []]
    assert first.answer_part(*asked(names)) == names.split()


def test_what_another_rank_cannot_answer_the_first_one_says(three: list[Ranks]) -> None:
    *others, first = three
    for rank in others:
        rank.answer_part(*asked("a bad c"))
    with pytest.raises(KikimimiError, match="bad: it has no room"):
        first.answer_part(*asked("a bad c"))
