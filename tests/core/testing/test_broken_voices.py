"""Voices that each break the contract in one way, and the check that has to notice."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from kikimimi import Voice, VoiceConfig
from kikimimi.testing import Check, list_checks, parametrize_checks, run_checks
from kikimimi.testing.checks import FOR_VOICES

ELSEWHERE = {check for check in FOR_VOICES if not check.__module__.endswith("voice_checks")}


class Beeps(Voice):
    """A beep for each character: the smallest voice that keeps the contract."""

    @dataclass(kw_only=True, frozen=True)
    class Config(VoiceConfig):
        pitch: float = 220.0
        """Pitch [Hz]."""

    sample_rate: Any = 8000
    language: Any = "en"

    def speak(self, text: str, *, speed: float = 1.0, semitones: float = 0.0) -> NDArray[np.float32]:
        if not text.strip():
            raise ValueError("there is nothing to speak")
        samples = round(len(text) * 400 / speed)
        pitch = self.config.pitch * 2 ** (semitones / 12)
        wave: NDArray[np.float32] = 0.5 * np.sin(
            2 * np.pi * pitch / 8000 * np.arange(samples, dtype=np.float32)
        )
        return wave.astype(np.float32)


@parametrize_checks(Beeps)
def test_a_voice_of_ones_own_passes(check: Check) -> None:
    check()


class RateInKilohertz(Beeps):
    sample_rate = 8.0


class LanguageInWords(Beeps):
    language = "English"


class Integers(Beeps):
    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        wrong: Any = (super().speak(text, **options) * 32767).astype(np.int16)
        return cast("NDArray[np.float32]", wrong)


class TooLoud(Beeps):
    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        return 3 * super().speak(text, **options)


class Silent(Beeps):
    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        return 0 * super().speak(text, **options)


class UpsideDown(Beeps):
    def speak(self, text: str, *, speed: float = 1.0, semitones: float = 0.0) -> NDArray[np.float32]:
        return super().speak(text, speed=speed, semitones=-semitones)


class HissesAtAnotherPitch(Beeps):
    def speak(self, text: str, *, speed: float = 1.0, semitones: float = 0.0) -> NDArray[np.float32]:
        found = super().speak(text, speed=speed)
        hiss = np.random.default_rng(0).standard_normal(len(found)).astype(np.float32)
        return (0.8 * found + 1e-3 * semitones * hiss).astype(np.float32)


class InHertz(Beeps):
    def speak(self, text: str, *, speed: float = 1.0, semitones: float = 0.0) -> NDArray[np.float32]:
        pitch = self.config.pitch
        return super().speak(text, speed=speed, semitones=12 * float(np.log2((pitch + semitones) / pitch)))


class SlowTalker(Beeps):
    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        return np.tile(super().speak(text, **options), 100)


class Varies(Beeps):
    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        return np.float32(random.SystemRandom().uniform(0.1, 1.0)) * super().speak(text, **options)


class OneSpeed(Beeps):
    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        return super().speak(text, semitones=options.get("semitones", 0.0))


class OnePitch(Beeps):
    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        return super().speak(text, speed=options.get("speed", 1.0))


class Resamples(Beeps):
    def speak(self, text: str, *, speed: float = 1.0, semitones: float = 0.0) -> NDArray[np.float32]:
        return super().speak(text, speed=speed * 2 ** (3 * semitones / 12))


class FailsOnNothing(Beeps):
    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        return super().speak(text + text[0], **options)


class RefusesWithoutWords(Beeps):
    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        if not text.strip():
            raise ValueError
        return super().speak(text, **options)


class OneBuffer(Beeps):
    """Each call is louder than the one before; all are views of one buffer."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.buffer, self.gain = np.zeros(80_000, np.float32), 0.1

    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        found = super().speak(text, **options)
        self.gain = min(1.0, self.gain + 0.1)
        self.buffer[: len(found)] = np.float32(self.gain) * found
        return self.buffer[: len(found)]


class AnotherEachTime(Beeps):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.gain = np.float32(random.SystemRandom().uniform(0.1, 1.0))

    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        return self.gain * super().speak(text, **options)


class SeedsEverything(Beeps):
    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        np.random.seed(0)
        found = super().speak(text, **options)
        return np.float32(np.random.uniform(0.1, 1.0)) * found


class SaysOneThing(Beeps):
    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        return super().speak("hello there" if text.strip() else text, **options)


class ChangesItsOptions(Beeps):
    def __init__(self, config: Any) -> None:
        object.__setattr__(config, "pitch", 2 * config.pitch)
        super().__init__(config)


BROKEN = [
    (OneBuffer, "again_is_the_same", "a second time: expected the same samples, found others"),
    (AnotherEachTime, "again_is_the_same", "by a new voice: expected the same samples, found others"),
    (SeedsEverything, "again_is_the_same", "left alone, found that of numpy seeded"),
    (
        SaysOneThing,
        "a_sentence_is_heard",
        "twice: expected more than 4400 samples, as of it once, found 4400",
    ),
    (
        ChangesItsOptions,
        "a_sentence_is_heard",
        "expected the config left as it was, Beeps.Config(pitch=220.0)",
    ),
    (RateInKilohertz, "states_rate_and_language", "sample_rate: expected a whole number above 0, found 8.0"),
    (
        LanguageInWords,
        "states_rate_and_language",
        "language: expected a code such as ja or en, found",
    ),
    (Integers, "a_sentence_is_heard", "expected (S,) float32, found int16"),
    (TooLoud, "a_sentence_is_heard", "expected samples from -1 to 1, found 1.5"),
    (Silent, "a_sentence_is_heard", "expected sound, found silence"),
    (SlowTalker, "a_sentence_is_heard", "expected 0.2 to 30 s, found"),
    (Varies, "again_is_the_same", "a second time: expected the same samples, found others"),
    (OneSpeed, "speed_shortens", "expected fewer samples the faster it speaks"),
    (
        OnePitch,
        "pitch_changes_the_sound",
        "semitones 3: expected a sound of that pitch above its own",
    ),
    (
        UpsideDown,
        "pitch_changes_the_sound",
        "that pitch above its own, found -3.0",
    ),
    (HissesAtAnotherPitch, "pitch_changes_the_sound", "above its own, found 0.0"),
    (InHertz, "pitch_changes_the_sound", "above its own, found 0.2"),
    (Resamples, "pitch_changes_the_sound", "semitones 3: expected about the length of"),
    (
        FailsOnNothing,
        "odd_texts_are_taken_or_refused",
        "'': expected samples or a ValueError, found",
    ),
    (
        RefusesWithoutWords,
        "odd_texts_are_taken_or_refused",
        "expected an error that says why",
    ),
]


@pytest.mark.parametrize(("component", "name", "message"), BROKEN)
def test_is_caught(component: type, name: str, message: str) -> None:
    result = next(one for one in list_checks("voice", component) if one.name == name).result()
    assert message in (result.error or "")


def test_every_check_has_something_to_catch() -> None:
    names = {check.__name__ for check in FOR_VOICES if check not in ELSEWHERE}
    assert {name for _, name, _ in BROKEN} == names


def test_what_the_contract_declares_is_named() -> None:
    class Undeclared(Voice):
        Config = Beeps.Config
        sample_rate = 8000

        def speak(self, text: str, *, speed: float = 1.0, semitones: float = 0.0) -> NDArray[np.float32]:
            return np.zeros(8000, np.float32)

    (result,) = run_checks("voice", Undeclared)
    assert result.error == "Undeclared: expected the attributes that its contract declares, found no language"
