"""Checks of normalisers: what they make of ordinary and of odd texts."""

import inspect
import pickle
from typing import Any

from kikimimi.contracts.normaliser import Normaliser
from kikimimi.testing.subject import (
    NotTriedError,
    Tested,
    check_named,
    expect,
    expect_no_error,
    expect_type,
)

_SENTENCES = (
    "今日は良い天気ですね。",
    "The quick brown fox jumps over the lazy dog.",
    "明日の朝、8時に駅で会いましょう!",
    "It was raining all night long, wasn't it?",
    "the dog sees the man today",
    "the man sees the dog today",
)
_ODD = (
    "",
    " ",
    "\n\t",
    "。",
    "...",
    "\x00",
    "\u2028",
    "\U0001f442" * 3,
    "e\u0301",
    "あ" * 3000,
    "1" * 400,
    "½ Ⅳ ㌔",
)


class NormaliserSubject(Tested):
    """A normaliser under test; it has no options."""

    def normalise(self, text: str) -> str:
        """Normalise a text with a normaliser that is new each time."""
        found: Any = self.build()(text)
        expect_type(found, str, f"{text[:20]!r}: expected a text")
        return str(found)


def states_its_definition(subject: NormaliserSubject) -> None:
    """Its docstring says what it does: a score means nothing without that."""
    said = inspect.getdoc(subject.component) or ""
    inherited = inspect.getdoc(Normaliser)
    expect(
        bool(said.strip()) and said != inherited,
        f"{subject.component.__name__}: expected a docstring with its definition and source, found none",
    )


def any_text_is_taken(subject: NormaliserSubject) -> None:
    """Any text, also an empty one, gives a text."""
    for text in (*_SENTENCES, *_ODD):
        with expect_no_error(f"{text[:20]!r}: expected a text"):
            subject.normalise(text)


def the_same_text_is_the_same(subject: NormaliserSubject) -> None:
    """The same text gives the same each time, whatever came before it."""
    normalise = subject.build()
    first = [normalise(text) for text in _SENTENCES]
    for what, found in {
        "in reverse": [normalise(text) for text in reversed(_SENTENCES)][::-1],
        "by a new one": [subject.normalise(text) for text in _SENTENCES],
    }.items():
        expect(found == first, f"the same sentences {what}: expected {first}, found {found}")


def sentences_stay_apart(subject: NormaliserSubject) -> None:
    """Something is left of a sentence, and sentences of other words, or in another order, stay different."""
    found = [subject.normalise(text) for text in _SENTENCES]
    for text, left in zip(_SENTENCES, found, strict=True):
        expect(bool(left.strip()), f"{text!r}: expected some of it to be left, found {left!r}")
    expect(len(set(found)) == len(found), f"expected different texts of different sentences, found {found}")


def twice_is_once(subject: NormaliserSubject) -> None:
    """What is normalised stays as it is when it is normalised again, unless the class says `stable = False`:
    both sides of a score are alike then, also where one was normalised before.
    """
    if not subject.component.stable:
        raise NotTriedError("stable: it says that what is normalised may change when it is normalised again")
    for text in (*_SENTENCES, *_ODD):
        once = subject.normalise(text)
        again = subject.normalise(once)
        expect(
            again == once,
            f"{text[:20]!r}: expected {once[:60]!r} to stay as it is, found {again[:60]!r} of it",
        )


@check_named("pickling_keeps_it")
def normaliser_pickling_keeps_it(subject: NormaliserSubject) -> None:
    """Pickling, by which it reaches other processes, changes nothing."""
    again = pickle.loads(pickle.dumps(subject.build()))
    for text in _SENTENCES:
        expect(
            again(text) == subject.normalise(text), f"{text!r}: expected the same once pickled, found another"
        )
