"""Speech translation: directly, or by way of the transcript."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from kikimimi import (
    BankConfig,
    BankTask,
    LabelledClip,
    PromptBank,
    Text,
    check_choice,
    check_text,
    listing,
    read_yaml,
)

_NAMES = Path(__file__).with_name("language_names.yaml")


@cache
def language_names() -> dict[str, dict[str, str]]:
    """Return what a language is called, by the language of the prompt and its own ISO 639 code."""
    names: dict[str, dict[str, str]] = read_yaml(_NAMES)
    return names


@dataclass(kw_only=True, frozen=True)
class TranslationConfig(BankConfig):
    """A request that names the language of the translation."""

    target: str = "en"
    """ISO 639 code of the language that is translated into."""

    def __post_init__(self) -> None:
        check_choice("target", self.target, language_names()["en"])
        super().__post_init__()


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


class Translate(BankTask[TranslationConfig]):
    """Asks for a translation of what is said: ``translation``, a text or ``{"en": ..., "de": ...}``."""

    name = "translate"
    Config = TranslationConfig

    @property
    def translates_into(self) -> str | None:
        """The language of the translation."""
        return self.config.target

    def bank(self) -> PromptBank:
        """Return the requests, the target named in the language of the prompt."""
        return with_target(super().bank(), self.config.target)

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        """Return the translation."""
        return translation(clip, self.config.target)


def with_target(bank: PromptBank, target: str) -> PromptBank:
    """Return requests that name the target in their own language."""
    return {
        language: [text.replace("{target}", language_names()[language][target]) for text in texts]
        for language, texts in bank.items()
    }


@dataclass(kw_only=True, frozen=True)
class TranslateCoTConfig(TranslationConfig):
    """Options of the task `translate_cot`."""

    separator: Text = "<sep>"
    """What stands between transcript and translation, a space on either side."""


class TranslateCoT(BankTask[TranslateCoTConfig]):
    """Asks for the transcript, a separator, and the translation: ``text`` and ``translation``; as
    Phi-4-Multimodal does it (arXiv 2503.01743).
    """

    name = "translate_cot"
    Config = TranslateCoTConfig

    @property
    def translates_into(self) -> str | None:
        """The language of the translation."""
        return self.config.target

    def translated(self, answer: str) -> str:
        """Return what stands after the separator; nothing where it never came."""
        return answer.partition(self.config.separator)[2].strip()

    def bank(self) -> PromptBank:
        """Return the requests, target and separator named."""
        return {
            language: [text.replace("{separator}", self.config.separator) for text in texts]
            for language, texts in with_target(super().bank(), self.config.target).items()
        }

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
