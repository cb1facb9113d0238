"""Prompt banks: requests in several phrasings and languages, and the tasks that draw from one."""

import inspect
from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal, TypeVar

from kikimimi.console.words import listing
from kikimimi.contracts.clip_task import ClipTask, ClipTaskConfig
from kikimimi.contracts.labelled_clip import LabelledClip
from kikimimi.files.reading import damaged
from kikimimi.files.yaml_text import read_yaml

PromptBank = dict[str, list[str]]
"""Requests by language; the first of each is the one that evaluation and transcription use."""


@cache
def read_prompt_bank(path: Path) -> PromptBank:
    """Return the bank that a YAML file holds: ``{en: [What is said?, ...], ja: [...]}``.

    Raises:
        DamagedError: It cannot be read, or holds something else.
    """
    bank = read_yaml(path)
    if not isinstance(bank, dict) or not bank:
        raise damaged(path, "expected languages with their requests, such as en: [What is said?]")
    for language, texts in bank.items():
        if not isinstance(language, str) or not _are_texts(texts):
            raise damaged(path, f"{language}: expected a list of requests, each of them a text")
    return bank


def _are_texts(values: Any) -> bool:
    whole = isinstance(values, list) and bool(values)
    return whole and all(isinstance(value, str) and value.strip() for value in values)


@dataclass(kw_only=True, frozen=True)
class RequestConfig(ClipTaskConfig):
    """How a clip's request is chosen and put."""

    language: str = "auto"
    """Language of the request; auto takes the record's."""


Asking = TypeVar("Asking", bound=RequestConfig)


class RequestTask(ClipTask[Asking]):
    """A task that asks in one of several phrasings, by language."""

    @abstractmethod
    def bank(self) -> PromptBank:
        """Return the requests that may be asked; empty where none depends on a language."""

    def request(self, language: str | None, clip: LabelledClip | None, rng: Random | None) -> str | None:
        """Return a request in the language that the option or else the clip says.

        Without a clip and a language it is the first of the bank.
        """
        if not self.config.asks:
            return None
        bank = self.bank()
        if self.config.language != "auto":
            language = self.config.language
        elif clip is None and language is None:
            language = next(iter(bank), None)
        if language is None:
            raise ValueError(
                f"language: the record has none; give it there, or set task '{self.name}' to one language"
            )
        if language not in bank:
            raise ValueError(
                f"language: task '{self.name}' has no prompts in {language!r}, only in {listing(bank)}; "
                "set its option 'language' to one of them"
            )
        return bank[language][0] if rng is None else rng.choice(bank[language])

    def phrasings(self) -> list[str]:
        """Return the requests that may be asked: of one language, or of all where the record decides."""
        bank = self.bank()
        languages = list(bank) if self.config.language == "auto" else [self.config.language]
        return super().phrasings() + [text for name in languages if name in bank for text in bank[name]]


@dataclass(kw_only=True, frozen=True)
class BankConfig(RequestConfig):
    """A request from the task's bank, or one of your own."""

    prompt: Literal["bank", "none"] = "bank"
    """bank: a request from the prompt bank stands beside the audio; none: the audio stands alone."""
    request: str | None = None
    """A request of your own, always the same, in place of the bank's."""
    language: Literal["ja", "en", "auto"] = "auto"
    """Language of the request; auto takes the record's."""

    unasked = "prompt is 'none'"

    def __post_init__(self) -> None:
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


Banked = TypeVar("Banked", bound=BankConfig)


class BankTask(RequestTask[Banked]):
    """A task whose bank is a file: ``prompts/NAME.yaml`` beside the module that gives the task its `name`."""

    speech: ClassVar[bool] = True
    """Whether the record's ``text`` is what is said in the clip."""

    def bank(self) -> PromptBank:
        """Return the requests that may be asked, by language."""
        if self.config.prompt == "none":
            return {}
        return read_prompt_bank(_bank_of(type(self)))

    def request(self, language: str | None, clip: LabelledClip | None, rng: Random | None) -> str | None:
        """Return the request of your own, or one of the bank's."""
        own = self.config.request
        return super().request(language, clip, rng) if own is None else own

    def said(self, clip: LabelledClip) -> str | None:
        """Return what is said in the clip, where that is known."""
        return super().said(clip) if self.speech else None

    def phrasings(self) -> list[str]:
        """Return the requests that may be asked, with a system turn of your own."""
        own = self.config.request
        return super().phrasings() if own is None else [*ClipTask.phrasings(self), own]


@cache
def _bank_of(task: type[ClipTask[Any]]) -> Path:
    """Return the place of a task's bank: beside the module of the class that gives it its name."""
    owner = next(cls for cls in task.__mro__ if "name" in vars(cls))
    return Path(inspect.getfile(owner)).with_name("prompts") / f"{task.name}.yaml"
