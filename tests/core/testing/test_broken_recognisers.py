"""Recognisers that each break the contract in one way, and the check that has to notice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from kikimimi import AudioError, Recogniser, RecogniserConfig
from kikimimi.testing import Check, list_checks, parametrize_checks, run_checks
from kikimimi.testing.checks import FOR_RECOGNISERS

OF_CONFIGS = {"config_is_a_frozen_dataclass", "config_is_documented", "config_survives_yaml"}
Clips = Sequence[NDArray[np.float32]]


class Loudness(Recogniser):
    """Writes how loud a clip is: the smallest recogniser that keeps the contract."""

    @dataclass(kw_only=True, frozen=True)
    class Config(RecogniserConfig):
        folder: str
        """Where the model is."""

    sample_rate: Any = 8000
    max_seconds: Any = 2.0

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.unit = Path(config.folder, "unit.txt").read_text()

    @classmethod
    def example(cls, folder: Path) -> Any:
        (folder / "unit.txt").write_text("dB")
        return cls.Config(folder=str(folder))

    def transcribe(self, clips: Clips, language: str | None) -> list[str]:
        if any(len(clip) > 2 * 8000 for clip in clips):
            raise AudioError("a clip is longer than 2 s")
        return [f"{np.abs(clip).max():.6f} {self.unit}" for clip in clips]


@parametrize_checks(Loudness)
def test_a_recogniser_of_ones_own_passes(check: Check) -> None:
    check()


class Tuples(Loudness):
    def transcribe(self, clips: Clips, language: str | None) -> Any:
        return tuple(super().transcribe(clips, language))


def test_texts_may_come_as_any_sequence() -> None:
    """As the contract has it."""
    results = [check.result() for check in list_checks("recogniser", Tuples) if "import" not in check.name]
    assert [result.error for result in results if result.error] == []


class RateInKilohertz(Loudness):
    sample_rate = 8.0


class NoLength(Loudness):
    max_seconds = 0


class ChangesItsName(Loudness):
    @classmethod
    def identity(cls, config: Any) -> str:
        return str(random.SystemRandom().random())


class OneName(Loudness):
    @classmethod
    def identity(cls, config: Any) -> str:
        return "loudness"


class OneText(Loudness):
    def transcribe(self, clips: Clips, language: str | None) -> list[str]:
        wrong: Any = "; ".join(super().transcribe(clips, language))
        return cast("list[str]", wrong)


class Sorts(Loudness):
    def transcribe(self, clips: Clips, language: str | None) -> list[str]:
        return sorted(super().transcribe(clips, language))


class LooksAtTheBatch(Loudness):
    def transcribe(self, clips: Clips, language: str | None) -> list[str]:
        return [f"{text} {len(clips)}" for text in super().transcribe(clips, language)]


class NormalisesInPlace(Loudness):
    def transcribe(self, clips: Clips, language: str | None) -> list[str]:
        for clip in clips:
            clip /= max(float(np.abs(clip).max()), 1e-9)
        return super().transcribe(clips, language)


class NeedsALanguage(Loudness):
    def transcribe(self, clips: Clips, language: str | None) -> list[str]:
        return [f"{text} {language.upper()}" for text in super().transcribe(clips, language)]  # type: ignore[union-attr]


class CutsLongClips(Loudness):
    def transcribe(self, clips: Clips, language: str | None) -> list[str]:
        return super().transcribe([clip[:16_000] for clip in clips], language)


class NamesItsPlace(Loudness):
    @classmethod
    def identity(cls, config: Any) -> str:
        return object.__repr__(config)


class NeedsAWindow(Loudness):
    def transcribe(self, clips: Sequence[NDArray[np.float32]], language: str | None) -> list[str]:
        for clip in clips:
            clip[:600].reshape(600)
        return super().transcribe(clips, language)


class KeepsTheLanguage(Loudness):
    kept: str | None = None

    def transcribe(self, clips: Sequence[NDArray[np.float32]], language: str | None) -> list[str]:
        self.kept = language or self.kept
        return [f"{self.kept} {text}" for text in super().transcribe(clips, language)]


class RefusesLongClips(Loudness):
    def transcribe(self, clips: Sequence[NDArray[np.float32]], language: str | None) -> list[str]:
        try:
            return super().transcribe(clips, language)
        except AudioError as error:
            raise ValueError("too long") from error


class OneAnswer(Loudness):
    def respond(self, prompts: Any, clips: Any, language: str | None) -> list[str]:
        return list(super().respond(prompts, clips, language))[:1]


class AnswersTheFirst(Loudness):
    def respond(self, prompts: Any, clips: Any, language: str | None) -> list[str]:
        return [f"{prompts[0].messages[-1].parts[-1].text} {number}" for number in range(len(clips))]


BROKEN = [
    (NamesItsPlace, "states_what_it_takes", "identity: expected the same text each time, found ['<"),
    (NeedsAWindow, "silence_is_taken", "a clip of 0.025 s: expected a text, found ValueError: "),
    (KeepsTheLanguage, "nothing_is_remembered", "as of one that is new, found ['en "),
    (RefusesLongClips, "longest_clip_works", "a kikimimi.AudioError, found ValueError: too long"),
    (RateInKilohertz, "states_what_it_takes", "sample_rate: expected a whole number above 0, found 8.0"),
    (NoLength, "states_what_it_takes", "max_seconds: expected a number above 0 or None, found 0"),
    (ChangesItsName, "states_what_it_takes", "identity: expected the same text each time, found"),
    (OneText, "clips_have_one_text_each", "transcribe: expected a list of 3 texts, found '"),
    (Sorts, "clips_have_one_text_each", "the same clips in reverse: expected"),
    (LooksAtTheBatch, "clips_have_one_text_each", "the same clips one by one: expected"),
    (OneAnswer, "prompts_have_one_answer_each", "respond: expected a list of 3 texts, found ["),
    (AnswersTheFirst, "prompts_have_one_answer_each", "respond: the same prompts in reverse: expected"),
    (NormalisesInPlace, "clips_have_one_text_each", "expected the clips as they were, found them changed"),
    (OneName, "identities_differ_with_options", "another text with another folder, found 'loudness' each"),
    (NeedsALanguage, "silence_is_taken", "'NoneType' object has no attribute 'upper'"),
    (CutsLongClips, "longest_clip_works", "expected a kikimimi.AudioError, found none"),
]


@pytest.mark.parametrize(("component", "name", "message"), BROKEN)
def test_is_caught(component: type, name: str, message: str) -> None:
    result = next(one for one in list_checks("recogniser", component) if one.name == name).result()
    assert message in (result.error or "")


def test_every_check_has_something_to_catch() -> None:
    names = {check.__name__ for check in FOR_RECOGNISERS} - OF_CONFIGS - {"import_is_quiet"}
    assert {name for _, name, _ in BROKEN} == names


def test_what_was_not_tried_is_said() -> None:
    class Bare(Loudness):
        @classmethod
        def example(cls, folder: Path) -> None:
            return None

    results = {result.name: result for result in run_checks("recogniser", Bare)}
    assert {result.error for result in results.values()} == {None}
    tried = {name for name, result in results.items() if result.not_tried is None}
    assert tried == {"config_is_a_frozen_dataclass", "config_is_documented", "import_is_quiet"}
    assert results["silence_is_taken"].not_tried == "Bare.example gives no small model to transcribe with"
