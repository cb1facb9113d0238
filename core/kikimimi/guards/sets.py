"""The sets that ship with the package: held-out text and short questions, in Japanese and in English.

All of it was written for this project: everyday sentences and plain facts. Nothing else of the package reads
them, and no recipe trains on them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kikimimi.files.reading import MEBIBYTE, read_bytes, read_json_lines
from kikimimi.recipe.schema import GuardLanguage

_FOLDER = Path(__file__).with_name("sets")


@dataclass(frozen=True)
class ShortQuestion:
    """A short question.

    Attributes:
        question: The question.
        answers: Words of which a right answer holds one.
    """

    question: str
    answers: list[str]


@dataclass(frozen=True)
class _Text:
    text: str


@cache
def held_out_texts(language: GuardLanguage) -> tuple[str, ...]:
    """Return the sentences whose loss is measured."""
    return tuple(one.text for one in read_json_lines(_FOLDER / f"texts_{language}.jsonl", _Text))


@cache
def short_questions(language: GuardLanguage) -> tuple[ShortQuestion, ...]:
    """Return the questions."""
    return tuple(read_json_lines(_FOLDER / f"questions_{language}.jsonl", ShortQuestion))


@cache
def sets_digest() -> str:
    """Return a hash of all sets: what was measured with others is not compared."""
    found = hashlib.sha256()
    for path in sorted(_FOLDER.glob("*.jsonl")):
        found.update(path.name.encode() + read_bytes(path, limit=MEBIBYTE))
    return found.hexdigest()[:12]
