"""What the tasks that translate share: the target language, its name in prompts, a record's translation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import yaml

from kikimimi import check_choice, listing
from kikimimi_tasks.banks import Bank, BankConfig
from kikimimi_tasks.labelled_clip import LabelledClip, check_text

_NAMES = Path(__file__).with_name("language_names.yaml")


@cache
def language_names() -> dict[str, dict[str, str]]:
    """Return what a language is called, by the language of the prompt and its own ISO 639 code."""
    names: dict[str, dict[str, str]] = yaml.safe_load(_NAMES.read_text(encoding="utf-8"))
    return names


@dataclass(kw_only=True, frozen=True)
class TranslationConfig(BankConfig):
    """A request that names the language of the translation."""

    target: str = "en"
    """ISO 639 code of the language that is translated into."""

    bank_name: ClassVar[str]

    def __post_init__(self) -> None:
        check_choice("target", self.target, language_names()["en"])
        super().__post_init__()

    def filled(self, bank: Bank) -> Bank:
        """Name the target in the language of the prompt."""
        return {
            language: [text.replace("{target}", language_names()[language][self.target]) for text in texts]
            for language, texts in bank.items()
        }


def translation(clip: LabelledClip, target: str) -> str:
    """Return a record's translation: its field ``translation``, a text or a mapping of texts by language.

    Raises:
        ValueError: There is none in this language.
    """
    name, value = clip.find("translation")
    if not name:
        raise clip.lacks("translation", what=f"the translation into {target!r}")
    if not isinstance(value, dict):
        return check_text(value, name)
    if target not in value:
        raise ValueError(
            f"translation: task '{clip.task}' needs one into {target!r}; the record has "
            f"{listing(map(str, value))}"
        )
    return check_text(value[target], f"{name}.{target}")
