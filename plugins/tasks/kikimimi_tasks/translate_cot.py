"""Speech translation by way of the transcript, as Phi-4-Multimodal does it (arXiv 2503.01743)."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kikimimi_tasks.banks import Bank, BankTask
from kikimimi_tasks.labelled_clip import LabelledClip
from kikimimi_tasks.translations import TranslationConfig, translation


@dataclass(kw_only=True, frozen=True)
class TranslateCoTConfig(TranslationConfig):
    """Options of the task `translate_cot`."""

    separator: str = "<sep>"
    """What stands between transcript and translation, a space on either side."""

    bank_name: ClassVar[str] = "translate_cot"

    def __post_init__(self) -> None:
        if not self.separator.strip():
            raise ValueError("separator: is empty: transcript and translation could not be told apart")
        super().__post_init__()

    def filled(self, bank: Bank) -> Bank:
        """Name the target and the separator."""
        return {
            language: [text.replace("{separator}", self.separator) for text in texts]
            for language, texts in super().filled(bank).items()
        }


class TranslateCoT(BankTask[TranslateCoTConfig]):
    """Asks for the transcript, a separator, and the translation: ``text`` and ``translation``."""

    name = "translate_cot"
    Config = TranslateCoTConfig

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return transcript, separator, translation."""
        transcript = clip.text("text", what="the transcript")
        translated, separator = translation(clip, self.config.target), self.config.separator
        for field, text in (("text", transcript), ("translation", translated)):
            if separator in text:
                raise ValueError(f"{field}: holds the separator {separator!r}; choose another")
        return f"{transcript} {separator} {translated}"

    def phrasings(self) -> list[str]:
        """Return the requests and the separator."""
        return [*super().phrasings(), f" {self.config.separator} "]
