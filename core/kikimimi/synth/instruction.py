"""Instructions of a grammar: requests, the answer to them, and answers that are rejected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kikimimi.console.words import listing, nearest
from kikimimi.errors import RequestError

SLOT = re.compile(r"\{([^{}]*)\}")
_KEYS = ("requests", "answer", "rejected")

Facts = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Of a list's words: list, word, name of the fact."""


@dataclass(frozen=True)
class Exchange:
    """A request with its answers, or a sentence, which nothing answers.

    Attributes:
        request: What is asked, or the sentence.
        parts: What it is made of: its characters; of a request also the phrasing, and each word in its slot.
        answer: What is to be answered.
        rejected: What is not to be answered.
    """

    request: str
    parts: frozenset[str]
    answer: str = ""
    rejected: str = ""


@dataclass(frozen=True)
class Instruction:
    """Templates of requests that one template answers.

    Attributes:
        requests: Phrasings; ``{city}`` is a slot for a word of the list ``city``.
        answer: The answer: ``{city}`` is the word of the request, ``{city.prefecture}`` a fact of that word.
        rejected: Answers of a wrong kind, of which each request gets one.
    """

    requests: tuple[str, ...]
    answer: str
    rejected: tuple[str, ...]

    @classmethod
    def parse(cls, where: str, data: Any, lists: Mapping[str, Sequence[str]], facts: Facts) -> Instruction:
        """Check an instruction of a grammar.

        Raises:
            RequestError: It is malformed; the message names the place.
        """
        if not isinstance(data, dict) or set(data) != set(_KEYS):
            raise RequestError(f"{where}: an instruction has exactly the keys {', '.join(_KEYS)}")
        requests = check_texts(f"{where}.requests", data["requests"])
        (answer,) = check_texts(f"{where}.answer", [data["answer"]])
        rejected = check_texts(f"{where}.rejected", data["rejected"])
        for i, request in enumerate(requests):
            slots = check_slots(f"{where}.requests[{i}]", request, lists)
            if twice := [slot for slot in slots if slots.count(slot) > 1]:
                raise RequestError(
                    f"{where}.requests[{i}]: two slots '{twice[0]}': an answer could not tell which is meant"
                )
        common = [slot for slot in slots_of(requests[0]) if all(slot in slots_of(r) for r in requests)]
        for place, template in [
            (f"{where}.answer", answer),
            *((f"{where}.rejected[{i}]", text) for i, text in enumerate(rejected)),
        ]:
            _check_answer(place, template, common, facts)
        if answer in rejected:
            raise RequestError(
                f"{where}.rejected[{rejected.index(answer)}]: is the answer that is preferred to it"
            )
        return cls(requests, answer, rejected)

    def answers(self, words: Mapping[str, str], facts: Facts, number: int) -> tuple[str, str]:
        """Return the answer to a request, and one of the rejected answers.

        Args:
            words: The words of the request by slot.
            facts: What is known of the words.
            number: Chooses the rejected answer.
        """
        rejected = self.rejected[number % len(self.rejected)]
        return _answered(self.answer, words, facts), _answered(rejected, words, facts)

    def facts_used(self) -> set[tuple[str, str]]:
        """Return the facts that its answers tell: list and name."""
        slots = [slot for template in (self.answer, *self.rejected) for slot in slots_of(template)]
        return {(slot.partition(".")[0], slot.partition(".")[2]) for slot in slots if "." in slot}


def slots_of(template: str) -> list[str]:
    """Return the names in the slots of a template, in order."""
    return SLOT.findall(template)


def fill_slots(template: str, words: Sequence[str]) -> str:
    """Put words into the slots of a template, in order."""
    remaining = iter(words)
    return SLOT.sub(lambda _: next(remaining), template)


def check_slots(where: str, template: str, lists: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the slots of a template.

    Raises:
        RequestError: A brace is alone, or a slot has no list of words, or one that is too short.
    """
    _check_braces(where, template)
    slots = slots_of(template)
    for slot in slots:
        if slot not in lists:
            raise RequestError(
                f"{where}: no words for slot '{slot}'.{nearest(slot, lists)} Lists: {listing(lists)}"
            )
        if slots.count(slot) > len(lists[slot]):
            raise RequestError(
                f"{where}: {slots.count(slot)} slots '{slot}', but words.{slot} has only {len(lists[slot])}"
            )
    return slots


def check_texts(where: str, items: Any) -> tuple[str, ...]:
    """Return a list of different texts.

    Raises:
        RequestError: It is something else.
    """
    if not isinstance(items, list) or not items:
        raise RequestError(f"{where}: expected a list of at least one text")
    for i, item in enumerate(items):
        if not isinstance(item, str) or not item.strip():
            raise RequestError(f"{where}[{i}]: expected a text, not {item!r}; put it in quotes")
        if item in items[:i]:
            raise RequestError(f"{where}[{i}]: {item!r} is there twice")
    return tuple(items)


def _check_braces(where: str, template: str) -> None:
    if "{" in SLOT.sub("", template) or "}" in SLOT.sub("", template):
        raise RequestError(f"{where}: a brace is not closed or not opened: {template}")


def _check_answer(where: str, template: str, common: Sequence[str], facts: Facts) -> None:
    _check_braces(where, template)
    for slot in slots_of(template):
        name, _, fact = slot.partition(".")
        if name not in common:
            raise RequestError(
                f"{where}: not every request has the slot '{name}'.{nearest(name, common)} Slots of all "
                f"requests: {listing(common)}"
            )
        if "." not in slot:
            continue
        known = sorted({name for word in facts.get(name, {}).values() for name in word})
        if fact not in known:
            raise RequestError(
                f"{where}: words.{name} says nothing of '{fact}'.{nearest(fact, known)} It says: "
                f"{listing(known)}"
            )


def _answered(template: str, words: Mapping[str, str], facts: Facts) -> str:
    filled = []
    for slot in slots_of(template):
        name, _, fact = slot.partition(".")
        filled.append(facts[name][words[name]][fact] if fact else words[name])
    return fill_slots(template, filled)
