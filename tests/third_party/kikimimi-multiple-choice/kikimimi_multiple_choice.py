"""Questions about audio with the answers to choose from, as benchmarks ask them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from string import ascii_uppercase
from typing import Any, Literal

from kikimimi import AudioPart, Conversation, Message, Task, TaskConfig, Text, TextPart


class MultipleChoice(Task):
    """Asks a question about a clip, lists the choices by letter, and expects the right one.

    Records are those of MMAU (Sakshi et al. 2024, arXiv 2410.19168): ``question``, ``choices`` and
    ``answer``, which is one of the choices, at the top level or in ``meta``. In training the choices come in
    random order, so that the place of an answer teaches nothing; in evaluation they come as they stand.
    """

    contract_version = 1

    @dataclass(kw_only=True, frozen=True)
    class Config(TaskConfig):
        """What a recipe may set."""

        request: Text = "Choose the right answer."
        """What is asked after the question and before the choices."""
        answer: Literal["letter_and_text", "letter"] = "letter_and_text"
        """What is answered: ``(B) a dog``, or ``(B)``."""
        shuffle: bool = True
        """Whether the choices come in random order in training."""

    config: Config

    def conversation(self, record: dict[str, Any], clips: list[str], rng: Random | None) -> Conversation:
        """Ask the question of a record about its clip.

        Raises:
            ValueError: There is not one clip, or ``question``, ``choices`` or ``answer`` is none.
        """
        if len(clips) != 1:
            raise ValueError(f"expected one clip, found {len(clips)}")
        meta = record.get("meta") or {}
        if not isinstance(meta, dict):
            raise ValueError(f"meta: expected a mapping, found {meta!r}")
        fields = {**meta, **record}
        question = read_text(fields, "question")
        choices, answer = read_choices(fields), read_text(fields, "answer")
        if answer not in choices:
            raise ValueError(f"answer: expected one of the choices ({', '.join(choices)}), found {answer!r}")
        if rng is not None and self.config.shuffle:
            rng.shuffle(choices)
        listed = [f"\n{letter(number)} {choice}" for number, choice in enumerate(choices)]
        asked = TextPart(f"{question}\n{self.config.request}{''.join(listed)}")
        chosen = letter(choices.index(answer))
        said = chosen if self.config.answer == "letter" else f"{chosen} {answer}"
        turns = (Message("user", (AudioPart(clips[0]), asked)), Message("assistant", (TextPart(said),)))
        return Conversation(turns, meta=meta)

    def example(self) -> tuple[dict[str, Any], list[str]]:
        """Return a question of three choices."""
        record = {
            "question": "Which animal is heard?",
            "choices": ["a cat", "a dog", "a horse"],
            "answer": "a dog",
            "meta": {"license": "CC0-1.0"},
        }
        return record, ["0.flac"]

    def phrasings(self) -> list[str]:
        """Return the request and the letters: all other text is the record's own."""
        return [self.config.request, "\n", " ", *map(letter, range(len(ascii_uppercase)))]

    def question(self, language: str | None) -> Conversation:
        """Raise: the records bring their own question.

        Raises:
            ValueError: Always.
        """
        raise ValueError("task 'multiple_choice' has no fixed question: the records bring their own")


def letter(number: int) -> str:
    """Return what a choice is called, counted from 0."""
    return f"({ascii_uppercase[number]})"


def read_text(fields: dict[str, Any], name: str) -> str:
    """Return a text of a record."""
    text = fields.get(name)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name}: expected a text, found {text!r}")
    return text.strip()


def read_choices(fields: dict[str, Any]) -> list[str]:
    """Return the choices of a record."""
    choices = fields.get("choices")
    if not is_texts(choices) or not 2 <= len(choices) <= len(ascii_uppercase):
        raise ValueError(f"choices: expected 2 to {len(ascii_uppercase)} texts, found {choices!r}")
    stripped = [choice.strip() for choice in choices]
    if len(set(stripped)) < len(stripped):
        raise ValueError(f"choices: expected each text once, found {choices!r}")
    return stripped


def is_texts(value: Any) -> bool:
    """Tell whether a value is a list of texts that are more than spaces."""
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)
