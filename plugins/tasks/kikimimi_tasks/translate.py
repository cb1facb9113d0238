"""Speech translation as a task."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from kikimimi_tasks.banks import BankTask
from kikimimi_tasks.labelled_clip import LabelledClip
from kikimimi_tasks.translations import TranslationConfig, translation


@dataclass(kw_only=True, frozen=True)
class TranslateConfig(TranslationConfig):
    """Options of the task `translate`."""

    bank_name: ClassVar[str] = "translate"


class Translate(BankTask[TranslateConfig]):
    """Asks for a translation of what is said: ``translation``, a text or ``{"en": ..., "de": ...}``."""

    name = "translate"
    Config = TranslateConfig

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return the translation."""
        return translation(clip, self.config.target)
