"""Vocabularies to spell transcripts with: an LLM's own, the characters of the training data, or bytes."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len

from kikimimi.errors import DamagedError
from kikimimi.files.reading import MEBIBYTE, damaged, parse_json, read_bytes
from kikimimi.files.writing import whole_file

_REMEDY = "Restore it from a copy of the run folder"

UNKNOWN = "\ufffd"
"""What an id that stands for no known character is written as: Unicode's replacement character."""


class Vocabulary(ABC):
    """Turns a transcript into ids from 0 to `size` - 1. It holds no parameters and is cheap to copy.

    Attributes:
        size: Number of ids.
    """

    size: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; nothing is put before or after it."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""

    @property
    def control(self) -> Mapping[int, str]:
        """Ids that stand for no text, and how they are written where they have to be seen. Default: none."""
        return {}


class TokenizerVocabulary(Vocabulary):
    """The tokens of a tokenizer of transformers.

    Args:
        tokenizer: Spells the texts.
        size: Rows of the LLM's embedding table, which may be more than the tokenizer fills.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.tokenizer = tokenizer
        self.size = size

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens around it."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without control tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    @property
    def control(self) -> Mapping[int, str]:
        """The tokenizer's special tokens."""
        added = self.tokenizer.added_tokens_decoder
        special = {*self.tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        return {i: str(self.tokenizer.convert_ids_to_tokens(i)) for i in special}


class BytesVocabulary(Vocabulary):
    """The 256 bytes of UTF-8: spells every text, without an LLM and without data."""

    size = 256

    def encode(self, text: str) -> list[int]:
        """Return one id per byte."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; bytes that form no character become the replacement character."""
        return bytes(ids).decode(errors="replace")


class CharacterVocabulary(Vocabulary):
    """Single characters; id 0 stands for every character that is not among them.

    Args:
        characters: Characters in any order; ids follow their code points.
    """

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = sorted(set(characters))
        self.size = 1 + len(self.characters)
        self._id_of = {character: i for i, character in enumerate(self.characters, start=1)}

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> CharacterVocabulary:
        """Gather the characters of texts."""
        return cls({character for text in texts for character in text})

    @classmethod
    def load(cls, path: Path) -> CharacterVocabulary:
        """Read what `save` wrote.

        Raises:
            DamagedError: The file is missing or damaged.
        """
        try:
            characters = parse_json(read_bytes(path, limit=16 * MEBIBYTE), list[Annotated[str, Len(1, 1)]])
        except DamagedError as error:
            raise damaged(path, f"no vocabulary can be read: {error}", _REMEDY) from error
        except ValueError as error:
            said = f"no vocabulary can be read: it is no list of single characters ({error})"
            raise damaged(path, said, _REMEDY) from error
        return cls(characters)

    def save(self, path: Path) -> None:
        """Write the characters as JSON."""
        with whole_file(path) as unfinished:
            unfinished.write_text(json.dumps(self.characters, ensure_ascii=False) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Return one id per character."""
        return [self._id_of.get(character, 0) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Return one character per id."""
        return "".join(self.characters[i - 1] if i > 0 else UNKNOWN for i in ids)
