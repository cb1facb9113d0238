"""Template grammars: sentences from templates and lists of words.

A grammar is a YAML file::

    language: ja
    sentences: ["{city}は{weather}です。"]
    words: {city: [東京, 大阪], weather: [晴れ, 雨]}
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml

from kikimimi.errors import RequestError, listing, nearest

_SHIPPED = Path(__file__).parent / "grammars"
_SLOT = re.compile(r"\{([^{}]*)\}")
_PATIENCE = 100  # draws that were there before, after which a template's remaining sentences are listed


class Split(NamedTuple):
    """Sentences for training and for evaluation; no sentence is in both.

    Attributes:
        train: For training.
        held_out: For evaluation.
        unseen: Characters of `held_out` that `train` has not: empty unless `train` is very small.
    """

    train: list[str]
    held_out: list[str]
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
    """

    name: str
    language: str
    sentences: tuple[str, ...]
    words: dict[str, tuple[str, ...]]

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
        if not isinstance(data, dict) or set(data) != {"language", "sentences", "words"}:
            raise RequestError(f"{name}: a grammar has exactly the keys language, sentences, words")
        language, sentences, words = data["language"], data["sentences"], data["words"]
        if not isinstance(language, str) or not language:
            raise RequestError(f"{name}: language: expected a code such as 'ja'")
        if not isinstance(words, dict):
            raise RequestError(f"{name}: words: expected named lists")
        lists = {str(key): _texts(f"{name}: words.{key}", items) for key, items in words.items()}
        templates = _texts(f"{name}: sentences", sentences)
        used: set[str] = set()
        for i, template in enumerate(templates):
            slots = _SLOT.findall(template)
            if "{" in _SLOT.sub("", template) or "}" in _SLOT.sub("", template):
                raise RequestError(f"{name}: sentences[{i}]: a brace is not closed or not opened: {template}")
            for slot in slots:
                if slot not in lists:
                    raise RequestError(
                        f"{name}: sentences[{i}]: no words for slot '{slot}'.{nearest(slot, lists)} "
                        f"Lists: {listing(lists)}"
                    )
                if slots.count(slot) > len(lists[slot]):
                    raise RequestError(
                        f"{name}: sentences[{i}]: {slots.count(slot)} slots '{slot}', but words.{slot} has "
                        f"only {len(lists[slot])}"
                    )
            used.update(slots)
        if spare := set(lists) - used:
            raise RequestError(f"{name}: no sentence uses words.{listing(spare)}")
        return cls(name, language, templates, lists)

    @cached_property
    def combinations(self) -> int:
        """How many ways there are to fill the templates: at least the number of different sentences."""
        return sum(
            math.prod(math.perm(len(self.words[slot]), slots.count(slot)) for slot in dict.fromkeys(slots))
            for slots in (_SLOT.findall(template) for template in self.sentences)
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
        if count < 1 or held_out < 0:
            raise RequestError(
                f"expected at least 1 training sentence and 0 held out, not {count} and {held_out}"
            )
        wanted = count + held_out
        sentences = list(itertools.islice(self._distinct(Random(seed)), wanted))
        if len(sentences) < wanted:
            raise RequestError(
                f"{self.name}: makes {len(sentences)} different sentences; {wanted} are asked for "
                f"({count} + {held_out} held out)"
            )
        seen: set[str] = set()
        new: list[str] = []
        old: list[str] = []
        for sentence in sentences:
            (old if seen.issuperset(sentence) else new).append(sentence)
            seen.update(sentence)
        shuffle = Random(seed)
        ordered = new + sorted(old, key=lambda _: shuffle.random())
        train, evaluation = ordered[:count], ordered[count:]
        unseen = set().union(*evaluation) - set().union(*train)
        return Split(train, evaluation, "".join(sorted(unseen)))

    def _distinct(self, rng: Random) -> Iterator[str]:
        streams = [self._fillings(template, rng) for template in self.sentences]
        seen: set[str] = set()
        while streams:
            for stream in list(streams):
                # Two templates may make the same sentence: the first has it.
                sentence = next((s for s in stream if s not in seen), None)
                if sentence is None:
                    streams.remove(stream)
                    continue
                seen.add(sentence)
                yield sentence

    def _fillings(self, template: str, rng: Random) -> Iterator[str]:
        slots = _SLOT.findall(template)
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
            yield _fill(template, words)
        rest = [
            words
            for words in itertools.product(*(self.words[slot] for slot in slots))
            if words not in seen and _different(slots, words)
        ]
        rest.sort(key=lambda _: rng.random())
        for words in rest:
            yield _fill(template, words)


def _texts(where: str, items: Any) -> tuple[str, ...]:
    if not isinstance(items, list) or not items:
        raise RequestError(f"{where}: expected a list of at least one text")
    for i, item in enumerate(items):
        if not isinstance(item, str) or not item.strip():
            raise RequestError(f"{where}[{i}]: expected a text, not {item!r}; put it in quotes")
        if item in items[:i]:
            raise RequestError(f"{where}[{i}]: {item!r} is there twice")
    return tuple(items)


def _different(slots: list[str], words: tuple[str, ...]) -> bool:
    return len(set(zip(slots, words, strict=True))) == len(slots)


def _fill(template: str, words: tuple[str, ...]) -> str:
    remaining = iter(words)
    return _SLOT.sub(lambda _: next(remaining), template)
