"""Conversations of a grammar's instructions, as manifests that `kikimimi.data.packing.pack` reads.

instructions.jsonl           spoken requests and their answers
held_out_instructions.jsonl  the same, of requests that are nowhere else; with the rejected answers
preferences.jsonl            other spoken requests, with the answer that is chosen and one that is rejected
texts.jsonl                  without audio: requests and answers, and sentences to write down
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kikimimi.data.whole_file import whole_file
from kikimimi.errors import RequestError
from kikimimi.synth.grammar import Grammar
from kikimimi.synth.instruction import Exchange

if TYPE_CHECKING:
    from kikimimi.synth.speak import Utterance

_ABOUT = ("language", "voice", "speed", "semitones")


@dataclass(frozen=True, kw_only=True)
class DialogueSizes:
    """How many conversations to make.

    Attributes:
        instructions: Spoken instructions for training.
        preferences: Preference pairs; their requests are spoken, and others than the instructions.
        texts: Conversations without audio; where the grammar has `copy`, half of them write down a sentence.
    """

    instructions: int
    preferences: int = 0
    texts: int = 0

    def __post_init__(self) -> None:
        for name, least in {"instructions": 1, "preferences": 0, "texts": 0}.items():
            if (value := getattr(self, name)) < least:
                raise RequestError(f"{name} must be at least {least}, not {value}")

    def copies(self, grammar: Grammar) -> int:
        """Return how many sentences are to be written down in text."""
        return 0 if grammar.copy is None else self.texts // 2


@dataclass(frozen=True)
class Dialogue:
    """What is asked and answered.

    Attributes:
        instructions: For training, spoken.
        held_out: Requests that are nowhere else, spoken.
        preferences: For preference training, spoken.
        texts: For training, written.
        copies: Sentences for training that are to be written down.
        unseen: Characters of `held_out` that training lacks.
    """

    instructions: Sequence[Exchange]
    held_out: Sequence[Exchange]
    preferences: Sequence[Exchange]
    texts: Sequence[Exchange]
    copies: Sequence[str]
    unseen: str

    def requests(self) -> list[str]:
        """Return what is spoken."""
        return [e.request for part in (self.instructions, self.preferences, self.held_out) for e in part]


def make_dialogue(
    grammar: Grammar, sizes: DialogueSizes, sentences: Sequence[str], held_out: int, seed: int
) -> Dialogue:
    """Make conversations of a grammar's instructions.

    Args:
        grammar: Has instructions.
        sizes: How many.
        sentences: For training, at least `sizes.copies` of them.
        held_out: Requests to hold out.
        seed: Of the choice; the same seed gives the same conversations.

    Raises:
        RequestError: The grammar has no instructions, or cannot make so many different ones.
    """
    copies = sizes.copies(grammar)
    written, spoken = sizes.texts - copies, sizes.instructions + sizes.preferences
    split = grammar.split_exchanges(max(written, spoken), held_out, seed)
    return Dialogue(
        split.train[: sizes.instructions],
        split.held_out,
        split.train[sizes.instructions : spoken],
        split.train[:written],
        sentences[:copies],
        split.unseen,
    )


def write_dialogue(
    dialogue: Dialogue, out: Path, spoken: Mapping[str, Utterance], grammar: Grammar
) -> tuple[Path, ...]:
    """Write the manifests that are not empty.

    Args:
        dialogue: What is asked and answered.
        out: Folder to write.
        spoken: How each request is spoken.
        grammar: Of which it was made.

    Returns:
        The manifests.
    """
    lines = {
        "instructions": [_spoken(exchange, spoken) for exchange in dialogue.instructions],
        "held_out_instructions": [_spoken(e, spoken) | {"rejected": e.rejected} for e in dialogue.held_out],
        "preferences": [_spoken(e, spoken) | {"rejected": e.rejected} for e in dialogue.preferences],
        "texts": [
            *(_conversation(e.request, e.answer) for e in dialogue.texts),
            # As the task asr asks of a clip: what to write down, then the request to do it.
            *(
                _conversation([_text(sentence), _text(grammar.copy)], sentence)
                for sentence in dialogue.copies
            ),
        ],
    }
    for line in lines["texts"]:
        line["language"] = grammar.language
    return tuple(_write(out / f"{name}.jsonl", part) for name, part in lines.items() if part)


def _spoken(exchange: Exchange, spoken: Mapping[str, Utterance]) -> dict[str, Any]:
    utterance = spoken[exchange.request]
    audio = {"type": "audio", "audio": utterance.path, "text": exchange.request}
    about = {name: getattr(utterance, name) for name in _ABOUT}
    return _conversation([audio], exchange.answer) | about


def _conversation(asked: str | list[dict[str, Any]], answer: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}],
    }


def _text(text: str | None) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return path
