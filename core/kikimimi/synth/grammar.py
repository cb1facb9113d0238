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
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml

from kikimimi.console.words import listing, nearest
from kikimimi.errors import RequestError
from kikimimi.synth.instruction import Exchange, Instruction, check_slots, check_texts, fill_slots, slots_of

_SHIPPED = Path(__file__).parent / "grammars"
_PATIENCE = 100  # choices that were there before, after which a template's remaining sentences are listed
_NEEDED, _OPTIONAL = ("language", "sentences", "words"), ("instructions", "copy")


class Split(NamedTuple):
    """Sentences, or requests with their answers, for training and for evaluation; nothing is in both.

    Attributes:
        train: For training: first those that bring something new, then the others in random order.
        held_out: For evaluation.
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
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RequestError(f"{path}: not YAML: {error}") from error
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
        lists = {str(key): check_texts(f"{name}: words.{key}", _words(items)) for key, items in words.items()}
        facts = {
            str(key): _facts(f"{name}: words.{key}", items)
            for key, items in words.items()
            if isinstance(items, dict)
        }
        sentences = check_texts(f"{name}: sentences", data["sentences"])
        used: set[str] = set()
        for i, template in enumerate(sentences):
            used.update(check_slots(f"{name}: sentences[{i}]", template, lists))
        instructions = _instructions(name, data, lists, facts)
        used.update(
            slot for given in instructions for request in given.requests for slot in slots_of(request)
        )
        if spare := set(lists) - used:
            raise RequestError(f"{name}: no sentence or request uses words.{listing(spare)}")
        told = {fact for instruction in instructions for fact in instruction.facts_used()}
        known = {(key, fact) for key, of in facts.items() for fact in next(iter(of.values()))}
        if untold := [f"{key}.{fact}" for key, fact in known - told]:
            raise RequestError(f"{name}: no answer tells {listing(untold)}")
        if "copy" in data:
            (copy,) = check_texts(f"{name}: copy", [copy])
        return cls(name, language, sentences, lists, facts, instructions, copy)

    @cached_property
    def combinations(self) -> int:
        """How many ways there are to fill the templates: at least the number of different sentences."""
        return sum(
            math.prod(math.perm(len(self.words[slot]), slots.count(slot)) for slot in dict.fromkeys(slots))
            for slots in map(slots_of, self.sentences)
        )

    def split(self, count: int, held_out: int, seed: int) -> Split:
        """Make different sentences and split them. The templates take turns.

        Every character of the held-out sentences also occurs in training wherever `count` allows it, so that
        a vocabulary of characters built from the training sentences covers both.

        Args:
            count: Training sentences.
            held_out: Held-out sentences.
            seed: Of the choice; the same seed gives the same sentences.

        Raises:
            RequestError: The grammar cannot make so many different sentences.
        """
        rng = Random(seed)
        streams = [self._sentences(template, rng) for template in self.sentences]
        return self._split(streams, "sentence", count, held_out, seed)

    def split_exchanges(self, count: int, held_out: int, seed: int) -> Split:
        """Make different requests with their answers, and split them. Instructions and phrasings take turns.

        Every character, phrasing and word of the held-out requests also occurs in training wherever `count`
        allows it, so that what an answer has to know can be learnt.

        Args:
            count: Training requests.
            held_out: Held-out requests.
            seed: Of the choice; the same seed gives the same requests.

        Raises:
            RequestError: The grammar has no instructions, or cannot make so many different requests.
        """
        if not self.instructions:
            raise RequestError(f"{self.name}: has no instructions, and {count + held_out} are asked for")
        rng = Random(seed)
        streams = [
            self._exchanges(f"{i}.{j}", instruction, request, rng)
            for i, instruction in enumerate(self.instructions)
            for j, request in enumerate(instruction.requests)
        ]
        return self._split(streams, "request", count, held_out, seed)

    def _split(
        self, streams: Sequence[Iterator[Exchange]], unit: str, count: int, held_out: int, seed: int
    ) -> Split:
        """Take different texts in turns; those that bring a new part go to training first."""
        if count < 1 or held_out < 0:
            raise RequestError(
                f"expected at least 1 training {unit} and 0 held out, not {count} and {held_out}"
            )
        wanted = count + held_out
        items = list(itertools.islice(_in_turns(streams), wanted))
        if len(items) < wanted:
            raise RequestError(
                f"{self.name}: makes {len(items)} different {unit}s; {wanted} are asked for "
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
        for words in self._fillings(slots_of(template), rng):
            sentence = fill_slots(template, words)
            yield Exchange(sentence, frozenset(sentence))

    def _exchanges(
        self, phrasing: str, instruction: Instruction, request: str, rng: Random
    ) -> Iterator[Exchange]:
        slots = slots_of(request)
        for number, words in enumerate(self._fillings(slots, rng)):
            filled = dict(zip(slots, words, strict=True))
            asked = fill_slots(request, words)
            answer, rejected = instruction.answers(filled, self.facts, number)
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


def _instructions(
    name: str, data: dict[str, Any], lists: dict[str, tuple[str, ...]], facts: dict[str, Any]
) -> tuple[Instruction, ...]:
    if "instructions" not in data:
        return ()
    given = data["instructions"]
    if not isinstance(given, list) or not given:
        raise RequestError(f"{name}: instructions: expected a list of at least one instruction")
    return tuple(
        Instruction.parse(f"{name}: instructions[{i}]", item, lists, facts) for i, item in enumerate(given)
    )


def _words(items: Any) -> Any:
    return list(items) if isinstance(items, dict) else items


def _facts(where: str, items: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Check what is known of the words of a list: the same of each."""
    first = next(iter(items))
    for word, known in items.items():
        if not isinstance(known, dict) or not known:
            raise RequestError(f"{where}.{word}: expected facts, such as {{prefecture: ...}}, not {known!r}")
        for fact, text in known.items():
            check_texts(f"{where}.{word}.{fact}", [text])
        if set(known) != set(items[first]):
            raise RequestError(
                f"{where}.{word}: says {listing(map(str, known))}, but {first} says "
                f"{listing(map(str, items[first]))}; say the same of each word"
            )
    return items


def _different(slots: Sequence[str], words: tuple[str, ...]) -> bool:
    return len(set(zip(slots, words, strict=True))) == len(slots)
