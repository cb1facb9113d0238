"""Normalisers that each break the contract in one way, and the check that has to notice."""

from __future__ import annotations

from typing import Any, cast

import pytest

from kikimimi import Normaliser
from kikimimi.testing import Check, ContractError, list_checks, parametrize_checks, run_checks
from kikimimi.testing.checks import FOR_NORMALISERS


class Lower(Normaliser):
    """Lower case, without white space around it."""

    def __call__(self, text: str) -> str:
        return text.lower().strip()


@parametrize_checks(Lower)
def test_a_normaliser_of_ones_own_passes(check: Check) -> None:
    if check.name != "import_is_light":  # test_import_check.py
        check()


class InheritsItsWords(Normaliser):
    def __call__(self, text: str) -> str:
        return text


class Words(Lower):
    def __call__(self, text: str) -> str:
        return cast(str, text.lower().split())


class NeedsText(Lower):
    def __call__(self, text: str) -> str:
        return text[0].lower() + text[1:]


class Counts(Lower):
    calls = 0

    def __call__(self, text: str) -> str:
        type(self).calls += 1
        return f"{super().__call__(text)} {self.calls}"


class LatinAlone(Lower):
    def __call__(self, text: str) -> str:
        return "".join(letter for letter in text if letter.isascii())


class Levels(Lower):
    def __call__(self, text: str) -> str:
        return "x"


class Unpicklable(Lower):
    def __init__(self) -> None:
        self.function: Any = lambda text: text


class Nothing(Lower):
    def __call__(self, text: str) -> str:
        return cast(str, super().__call__(text) or None)


class WithoutOrder(Lower):
    def __call__(self, text: str) -> str:
        return " ".join(sorted(super().__call__(text).split()))


class TakesOneMarkOff(Lower):
    def __call__(self, text: str) -> str:
        return super().__call__(text).removesuffix(".")


class Doubles(Lower):
    def __call__(self, text: str) -> str:
        return super().__call__(text).replace("o", "oo")


BROKEN = [
    (Nothing, "any_text_is_taken", "'': expected a text, found NoneType"),
    (WithoutOrder, "sentences_stay_apart", "expected different texts of different sentences"),
    (TakesOneMarkOff, "twice_is_once", "'...': expected '..' to stay as it is, found '.' of it"),
    (Doubles, "twice_is_once", "broown foox"),
    (
        InheritsItsWords,
        "states_its_definition",
        "expected a docstring with its definition and source",
    ),
    (Words, "any_text_is_taken", "expected a text, found list"),
    (NeedsText, "any_text_is_taken", "'': expected a text, found IndexError"),
    (Counts, "the_same_text_is_the_same", "the same sentences in reverse: expected"),
    (LatinAlone, "sentences_stay_apart", "expected some of it to be left, found"),
    (Levels, "sentences_stay_apart", "expected different texts of different sentences"),
    (Unpicklable, "pickling_keeps_it", "lambda"),
]


@pytest.mark.parametrize(("component", "name", "message"), BROKEN)
def test_is_caught(component: type, name: str, message: str) -> None:
    result = next(one for one in list_checks("normaliser", component) if one.name == name).result()
    assert message in (result.error or "")


def test_what_is_said_to_change_again_is_not_tried() -> None:
    class Follows(Doubles):
        """As it is published."""

        stable = False

    check = next(one for one in list_checks("normaliser", Follows) if one.name == "twice_is_once")
    assert (check.result().error, check.result().not_tried) == (
        None,
        "stable: it says that what is normalised may change when it is normalised again",
    )


def test_every_check_has_something_to_catch() -> None:
    names = {check.__name__ for check in FOR_NORMALISERS} - {"import_is_light"}
    assert {name for _, name, _ in BROKEN} == names


def test_what_the_contract_leaves_open_is_named_once() -> None:
    class Open(Normaliser):
        """Nothing."""

    (result,) = run_checks("normaliser", Open)
    assert result.name == "builds"
    assert result.error == (
        "Open: expected its contract's __call__, found none. Write in the class: "
        "def __call__(self, text: str) -> str: Return the normalised text, which stays as it is when it is "
        "normalised again (`stable`)."
    )
    with pytest.raises(ContractError, match="__call__"):
        list_checks("normaliser", Open)[0].subject.expect_built()
