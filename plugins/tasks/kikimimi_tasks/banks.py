"""Prompt banks: requests in several phrasings and languages, and the tasks that draw from one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import ClassVar, Literal, TypeVar

import yaml

from kikimimi import check_choice, listing
from kikimimi_tasks.clip_task import ClipTask, ClipTaskConfig
from kikimimi_tasks.labelled_clip import LabelledClip

_FOLDER = Path(__file__).with_name("prompts")

Bank = dict[str, list[str]]
"""Requests by language; the first of each is the one that evaluation and transcription use."""


@cache
def read_bank(name: str) -> Bank:
    """Return a bank of this package."""
    bank: Bank = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return bank


@dataclass(kw_only=True, frozen=True)
class RequestConfig(ClipTaskConfig):
    """How a clip's request is chosen and put."""

    language: str = "auto"
    """Language of the request; auto takes the record's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bank():
            check_choice("language", self.language, ("auto", *self.bank()))

    @property
    def asks(self) -> bool:
        """Whether there is a request."""
        return bool(self.bank())

    @abstractmethod
    def bank(self) -> Bank:
        """Return the requests that may be asked; empty where none depends on a language."""

    def requests(self, task: str, language: str | None) -> list[str]:
        """Return what may be asked of a clip in a language.

        Raises:
            ValueError: Nothing can.
        """
        bank = self.bank()
        if self.language != "auto":
            language = self.language
        if language is None:
            raise ValueError(
                f"language: the record has none; give it there, or set task '{task}' to one language"
            )
        if language not in bank:
            raise ValueError(
                f"language: task '{task}' has no prompts in {language!r}, only in {listing(bank)}; "
                "set its option 'language' to one of them"
            )
        return bank[language]


Asking = TypeVar("Asking", bound=RequestConfig)


class RequestTask(ClipTask[Asking]):
    """A task that asks in one of several phrasings, by language."""

    def request(self, language: str | None, clip: LabelledClip | None, rng: Random | None) -> str | None:
        """Return a request in the language that the option or else the clip says.

        Without a clip and a language it is the first of the bank.
        """
        if not self.config.asks:
            return None
        if clip is None and language is None and self.config.language == "auto":
            language = next(iter(self.config.bank()), None)
        requests = self.config.requests(self.name, language)
        return requests[0] if rng is None else rng.choice(requests)

    def phrasings(self) -> list[str]:
        """Return the requests that may be asked: of one language, or of all where the record decides."""
        bank = self.config.bank()
        languages = list(bank) if self.config.language == "auto" else [self.config.language]
        return super().phrasings() + [text for name in languages if name in bank for text in bank[name]]


@dataclass(kw_only=True, frozen=True)
class BankConfig(RequestConfig):
    """A request from a bank of this package, or one of your own."""

    prompt: Literal["bank", "none"] = "bank"
    """bank: a request from the prompt bank stands beside the audio; none: the audio stands alone."""
    request: str | None = None
    """A request of your own, always the same, in place of the bank's."""
    language: Literal["ja", "en", "auto"] = "auto"
    """Language of the request; auto takes the record's."""

    bank_name: ClassVar[str]
    """File of the bank, without its ending."""
    unasked = "prompt is 'none'"

    def __post_init__(self) -> None:
        check_choice("language", self.language, ("auto", *read_bank(self.bank_name)))
        if self.request is not None:
            if (self.prompt, self.language) != ("bank", "auto"):
                raise ValueError("request: stands in place of prompt and language: leave those two out")
            if not self.request.strip():
                raise ValueError("request: is empty; for audio alone set prompt to none")
        super().__post_init__()

    @property
    def asks(self) -> bool:
        """Whether there is a request."""
        return self.prompt == "bank"

    def bank(self) -> Bank:
        """Return the requests that may be asked, by language."""
        if self.prompt == "none" or self.request is not None:
            return {}
        return self.filled(read_bank(self.bank_name))

    def filled(self, bank: Bank) -> Bank:
        """Return the bank with its blanks filled in; it has none unless a subclass says so."""
        return bank

    def requests(self, task: str, language: str | None) -> list[str]:
        """Return what may be asked of a clip in a language.

        Raises:
            ValueError: Nothing can.
        """
        return [self.request] if self.request is not None else super().requests(task, language)


Banked = TypeVar("Banked", bound=BankConfig)


class BankTask(RequestTask[Banked]):
    """A task with a bank in this package."""

    def phrasings(self) -> list[str]:
        """Return the requests that may be asked, with a system turn of your own."""
        own = [] if self.config.request is None else [self.config.request]
        return super().phrasings() + own
