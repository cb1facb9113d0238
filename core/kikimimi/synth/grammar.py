"""Template grammars: sentences from templates and lists of words, and requests with their answers.

A grammar is a YAML file::

    language: ja
    sentences: ["{city}は{weather}です。"]
    words: {city: [東京, 大阪], weather: [晴れ, 雨]}

With ``instructions`` it also makes requests, each with an answer and one that is rejected. Words may then
have facts, which answers tell. ``copy`` asks to write down a sentence::

    copy: 書いてください。
    instructions:
      - requests: ["{city}は何県ですか。", "{city}がある県を教えてください。"]
        answer: "{city}は{city.prefecture}にあります。"
        rejected: [知りません。]
    words: {city: {横浜: {prefecture: 神奈川県}, 神戸: {prefecture: 兵庫県}}, weather: [晴れ, 雨]}
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

from kikimimi.console.words import listing, nearest
from kikimimi.contracts.options import NonNegativeInt, PositiveInt, checked
from kikimimi.errors import DamagedError, RequestError
from kikimimi.files.yaml_text import read_yaml

_SHIPPED = Path(__file__).parent / "grammars"
_PATIENCE = 100  # choices that were there before, after which a template's remaining sentences are listed
_NEEDED, _OPTIONAL = ("language", "sentences", "words"), ("instructions", "copy")
_OF_INSTRUCTION = ("requests", "answer", "rejected")
_SLOT = re.compile(r"\{([^{}]*)\}")

Facts = Mapping[str, Mapping[str, Mapping[str, str]]]
"""What is known of words: list, word, name of the fact."""
_Made = Literal["sentence", "request"]


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
        if not isinstance(data, dict) or set(data) != set(_OF_INSTRUCTION):
            raise RequestError(f"{where}: an instruction has exactly the keys {', '.join(_OF_INSTRUCTION)}")
        requests = _check_texts(f"{where}.requests", data["requests"])
        (answer,) = _check_texts(f"{where}.answer", [data["answer"]])
        rejected = _check_texts(f"{where}.rejected", data["rejected"])
        for i, request in enumerate(requests):
            slots = _check_slots(f"{where}.requests[{i}]", request, lists)
            if twice := [slot for slot in slots if slots.count(slot) > 1]:
                raise RequestError(
                    f"{where}.requests[{i}]: two slots '{twice[0]}': an answer could not tell which is meant"
                )
        common = [slot for slot in _slots_of(requests[0]) if all(slot in _slots_of(r) for r in requests)]
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


class Split(NamedTuple):
    """Sentences, or requests with their answers, for training and for evaluation; nothing is in both.

    Attributes:
        train: Exchanges for training, first those that bring something new, then the others in random order.
        held_out: Exchanges for evaluation.
        unseen: Characters of `held_out`, answers included, that `train` has not: few where it is large.
    """

    train: list[Exchange]
    held_out: list[Exchange]
    unseen: str


@dataclass(frozen=True)
class Grammar:
    """Templates and the words that fill their slots.

    Attributes:
        name: What messages call it.
        language: ISO 639-1 code.
        sentences: Templates; ``{city}`` is a slot for a word of the list ``city``. Slots of the same list in
            one sentence get different words.
        words: The lists.
        facts: What is known of words: by list, word, and name of the fact.
        instructions: Requests with their answers.
        copy: Asks to write down what stands before it, or None.
    """

    name: str
    language: str
    sentences: tuple[str, ...]
    words: dict[str, tuple[str, ...]]
    facts: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    instructions: tuple[Instruction, ...] = ()
    copy: str | None = None

    @classmethod
    def load(cls, source: str) -> Grammar:
        """Load a grammar.

        Args:
            source: Path of a YAML file, or the name of a grammar that is shipped (``ja_small``).

        Raises:
            RequestError: There is no such grammar, or it is malformed.
        """
        shipped = sorted(path.stem for path in _SHIPPED.glob("*.yaml"))
        path = _SHIPPED / f"{source}.yaml" if source in shipped else Path(source)
        if not path.is_file():
            raise RequestError(
                f"{source}: no such grammar file, and no shipped grammar has this name."
                f"{nearest(source, shipped)} Shipped: {listing(shipped)}"
            )
        try:
            data = read_yaml(path)
        except DamagedError as error:
            raise RequestError(str(error)) from error
        return cls._parse(source, data)

    @classmethod
    def _parse(cls, name: str, data: Any) -> Grammar:
        if not isinstance(data, dict) or not set(_NEEDED) <= set(data) <= {*_NEEDED, *_OPTIONAL}:
            raise RequestError(
                f"{name}: a grammar has exactly the keys {', '.join(_NEEDED)}, and, where wanted, "
                f"{', '.join(_OPTIONAL)}"
            )
        language, words, copy = data["language"], data["words"], data.get("copy")
        if not isinstance(language, str) or not language:
            raise RequestError(f"{name}: language: expected a code such as 'ja'")
        if not isinstance(words, dict):
            raise RequestError(f"{name}: words: expected named lists")
        lists = {
            str(key): _check_texts(f"{name}: words.{key}", list(items) if isinstance(items, dict) else items)
            for key, items in words.items()
        }
        facts = {
            str(key): _facts(f"{name}: words.{key}", items)
            for key, items in words.items()
            if isinstance(items, dict)
        }
        sentences = _check_texts(f"{name}: sentences", data["sentences"])
        used = {
            slot
            for i, template in enumerate(sentences)
            for slot in _check_slots(f"{name}: sentences[{i}]", template, lists)
        }
        given = data.get("instructions")
        if "instructions" in data and (not isinstance(given, list) or not given):
            raise RequestError(f"{name}: instructions: expected a list of at least one instruction")
        instructions = tuple(
            Instruction.parse(f"{name}: instructions[{i}]", item, lists, facts)
            for i, item in enumerate(given or ())
        )
        used.update(slot for one in instructions for request in one.requests for slot in _slots_of(request))
        if spare := set(lists) - used:
            raise RequestError(f"{name}: no sentence or request uses words.{listing(spare)}")
        told = {
            slot
            for one in instructions
            for template in (one.answer, *one.rejected)
            for slot in _slots_of(template)
        }
        known = {f"{key}.{fact}" for key, of in facts.items() for fact in next(iter(of.values()))}
        if untold := known - told:
            raise RequestError(f"{name}: no answer tells {listing(untold)}")
        if "copy" in data:
            (copy,) = _check_texts(f"{name}: copy", [copy])
        return cls(name, language, sentences, lists, facts, instructions, copy)

    @checked
    def split(self, count: PositiveInt, held_out: NonNegativeInt, seed: int, of: _Made = "sentence") -> Split:
        """Make different sentences, or requests with their answers, and split them. Templates take turns.

        Every character of what is held out, and every phrasing and word of a request, also occurs in training
        wherever `count` allows it: a vocabulary of characters that is built from the training part covers
        both, and what an answer has to know can be learnt.

        Raises:
            RequestError: The grammar has no instructions, or cannot make so many different ones.
        """
        rng = Random(seed)
        if of == "sentence":
            streams = [self._sentences(template, rng) for template in self.sentences]
        elif self.instructions:
            streams = [
                self._exchanges(f"{i}.{j}", instruction, request, rng)
                for i, instruction in enumerate(self.instructions)
                for j, request in enumerate(instruction.requests)
            ]
        else:
            raise RequestError(f"{self.name}: has no instructions, and {count + held_out} are asked for")
        wanted = count + held_out
        items = list(itertools.islice(_in_turns(streams), wanted))
        if len(items) < wanted:
            raise RequestError(
                f"{self.name}: makes {len(items)} different {of}s; {wanted} are asked for "
                f"({count} + {held_out} held out)"
            )
        seen: set[str] = set()
        new: list[Exchange] = []
        old: list[Exchange] = []
        for item in items:
            (old if item.parts <= seen else new).append(item)
            seen |= item.parts
        shuffle = Random(seed)
        ordered = new + sorted(old, key=lambda _: shuffle.random())
        known, met = (
            {*"".join(e.request + e.answer + e.rejected for e in part)}
            for part in (ordered[:count], ordered[count:])
        )
        return Split(ordered[:count], ordered[count:], "".join(sorted(met - known)))

    def _sentences(self, template: str, rng: Random) -> Iterator[Exchange]:
        for words in self._fillings(_slots_of(template), rng):
            sentence = _fill_slots(template, words)
            yield Exchange(sentence, frozenset(sentence))

    def _exchanges(
        self, phrasing: str, instruction: Instruction, request: str, rng: Random
    ) -> Iterator[Exchange]:
        slots = _slots_of(request)
        for number, words in enumerate(self._fillings(slots, rng)):
            filled = dict(zip(slots, words, strict=True))
            asked = _fill_slots(request, words)
            answers = instruction.answer, instruction.rejected[number % len(instruction.rejected)]
            answer, rejected = (_answered(template, filled, self.facts) for template in answers)
            if answer == rejected:
                raise RequestError(
                    f"{self.name}: {asked!r}: is answered with {answer!r}, which is rejected, too"
                )
            named = (f"{phrasing.partition('.')[0]} {slot} {word}" for slot, word in filled.items())
            yield Exchange(asked, frozenset((phrasing, *named, *asked, *answer, *rejected)), answer, rejected)

    def _fillings(self, slots: Sequence[str], rng: Random) -> Iterator[tuple[str, ...]]:
        """Yield every choice of words for slots once, in random order."""
        seen: set[tuple[str, ...]] = set()
        misses = 0
        while misses < _PATIENCE:
            # int(random() * n): `random` alone is promised to stay the same in later Pythons.
            words = tuple(self.words[slot][int(rng.random() * len(self.words[slot]))] for slot in slots)
            if words in seen or not _different(slots, words):
                misses += 1
                continue
            misses = 0
            seen.add(words)
            yield words
        rest = [
            words
            for words in itertools.product(*(self.words[slot] for slot in slots))
            if words not in seen and _different(slots, words)
        ]
        rest.sort(key=lambda _: rng.random())
        yield from rest


def _in_turns(streams: Iterable[Iterator[Exchange]]) -> Iterator[Exchange]:
    """Yield exchanges of different requests, from one stream after the other."""
    left = list(streams)
    seen: set[str] = set()
    while left:
        for stream in list(left):
            # Two templates may make the same text: the first has it.
            item = next((item for item in stream if item.request not in seen), None)
            if item is None:
                left.remove(stream)
                continue
            seen.add(item.request)
            yield item


def _facts(where: str, items: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Check what is known of the words of a list: the same of each."""
    first = next(iter(items))
    for word, known in items.items():
        if not isinstance(known, dict) or not known:
            raise RequestError(f"{where}.{word}: expected facts, such as {{prefecture: ...}}, not {known!r}")
        for fact, text in known.items():
            _check_texts(f"{where}.{word}.{fact}", [text])
        if set(known) != set(items[first]):
            raise RequestError(
                f"{where}.{word}: says {listing(map(str, known))}, but {first} says "
                f"{listing(map(str, items[first]))}; say the same of each word"
            )
    return items


def _different(slots: Sequence[str], words: tuple[str, ...]) -> bool:
    return len(set(zip(slots, words, strict=True))) == len(slots)


def _slots_of(template: str) -> list[str]:
    """Return the names in the slots of a template, in order."""
    return _SLOT.findall(template)


def _fill_slots(template: str, words: Sequence[str]) -> str:
    """Put words into the slots of a template, in order."""
    remaining = iter(words)
    return _SLOT.sub(lambda _: next(remaining), template)


def _check_slots(where: str, template: str, lists: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the slots of a template, each of which has a list of words that is long enough."""
    _check_braces(where, template)
    slots = _slots_of(template)
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


def _check_texts(where: str, items: Any) -> tuple[str, ...]:
    """Return a list of different texts."""
    if not isinstance(items, list) or not items:
        raise RequestError(f"{where}: expected a list of at least one text")
    for i, item in enumerate(items):
        if not isinstance(item, str) or not item.strip():
            raise RequestError(f"{where}[{i}]: expected a text, not {item!r}; put it in quotes")
        if item in items[:i]:
            raise RequestError(f"{where}[{i}]: {item!r} is there twice")
    return tuple(items)


def _check_braces(where: str, template: str) -> None:
    if "{" in _SLOT.sub("", template) or "}" in _SLOT.sub("", template):
        raise RequestError(f"{where}: a brace is not closed or not opened: {template}")


def _check_answer(where: str, template: str, common: Sequence[str], facts: Facts) -> None:
    _check_braces(where, template)
    for slot in _slots_of(template):
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
    slots = [slot.partition(".") for slot in _slots_of(template)]
    filled = [facts[name][words[name]][fact] if fact else words[name] for name, _, fact in slots]
    return _fill_slots(template, filled)
