"""What is for training and what is held out, among sentences or requests that a grammar makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import NamedTuple, TypeVar

from kikimimi.synth.instruction import Exchange

Item = TypeVar("Item")


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


class ExchangeSplit(NamedTuple):
    """Requests with their answers for training and for evaluation; no request is in both.

    Attributes:
        train: For training: first those that bring something new, then the others in random order.
        held_out: For evaluation.
        unseen: Characters of `held_out`, answers included, that `train` has not.
    """

    train: list[Exchange]
    held_out: list[Exchange]
    unseen: str


def in_turns(streams: Sequence[Iterator[Item]], text: Callable[[Item], str]) -> Iterator[Item]:
    """Yield items of different text, from one stream after the other."""
    open_ = list(streams)
    seen: set[str] = set()
    while open_:
        for stream in list(open_):
            # Two templates may make the same text: the first has it.
            item = next((item for item in stream if text(item) not in seen), None)
            if item is None:
                open_.remove(stream)
                continue
            seen.add(text(item))
            yield item


def hold_out(
    items: Iterable[Item], parts: Callable[[Item], frozenset[str]], count: int, seed: int
) -> tuple[list[Item], list[Item]]:
    """Split items; those that bring a new part go to training first, the others in random order.

    Args:
        items: All of them.
        parts: What an item is made of.
        count: How many are for training; the rest is held out.
        seed: Of the order.
    """
    seen: set[str] = set()
    new: list[Item] = []
    old: list[Item] = []
    for item in items:
        (old if seen.issuperset(parts(item)) else new).append(item)
        seen.update(parts(item))
    shuffle = Random(seed)
    ordered = new + sorted(old, key=lambda _: shuffle.random())
    return ordered[:count], ordered[count:]


def unseen(train: str, held_out: str) -> str:
    """Return the characters of `held_out` that `train` has not, in order."""
    return "".join(sorted(set(held_out) - set(train)))
