"""Checks of voices: the sound of a sentence, how it follows speed and pitch, and odd texts."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi.contracts.voice import Voice, VoiceConfig
from kikimimi.testing.subject import (
    PlainSubject,
    check_named,
    expect,
    expect_no_error,
    expect_not_seeded,
    expect_type,
)

_SENTENCES = {"ja": "今日は良い天気ですね。", "zh": "今天天气很好。", "ko": "오늘은 날씨가 좋네요."}
_ANY = "One, two, three, four."
_ODD = ("", " ", "\n", "。", "?!", "\x00", "\U0001f442", "e\u0301", "123")
_SHIFT = 3.0
"""Change of pitch that is tried [semitones]."""
_STEP = 0.1
"""How finely pitches are compared [semitones]."""
_WIDEST = 12.0
"""Largest difference of pitch that is looked for [semitones]."""
_FRAME = 0.05
"""Part of a sound whose pitch is looked at [s]."""
_QUIET = 1e-3
"""Peak below which a sentence counts as silence."""


class VoiceSubject(PlainSubject[Voice]):
    """A voice under test. Building one may take a while: it is built once."""

    config_base = VoiceConfig

    @cached_property
    def voice(self) -> Voice:
        """The voice."""
        return self.build()

    @property
    def sentence(self) -> str:
        """A sentence that it can speak."""
        return _SENTENCES.get(self.voice.language, _ANY)

    def speak(self, text: str, **options: float) -> NDArray[np.float32]:
        """Speak a text, and check the form of what comes out."""
        found: Any = self.voice.speak(text, **options)
        expect_type(found, np.ndarray, f"{text!r}: expected an array of numpy")
        expect(
            found.ndim == 1 and found.dtype == np.float32,
            f"{text!r}: expected (S,) float32, found {found.dtype} of shape {found.shape}",
        )
        expect(bool(np.isfinite(found).all()), f"{text!r}: expected finite samples, found others")
        peak = float(np.abs(found).max(initial=0.0))
        expect(peak <= 1.0, f"{text!r}: expected samples from -1 to 1, found {peak:g}")
        return np.array(found)  # a voice may use its buffer again


def states_rate_and_language(subject: VoiceSubject) -> None:
    """`sample_rate` is a whole number of hertz, `language` a code of ISO 639. Whether that is the rate of the
    samples, they do not tell: listen to some.
    """
    rate, language = subject.voice.sample_rate, subject.voice.language
    expect(type(rate) is int and rate > 0, f"sample_rate: expected a whole number above 0, found {rate!r}")
    expect(
        isinstance(language, str) and 2 <= len(language) <= 3 and language.isalpha() and language.islower(),
        f"language: expected a code such as ja or en, found {language!r}",
    )


def a_sentence_is_heard(subject: VoiceSubject) -> None:
    """A sentence becomes sound of a plausible length, 0.2 to 30 s, that is no silence."""
    found = subject.speak(subject.sentence)
    seconds = len(found) / subject.voice.sample_rate
    expect(0.2 <= seconds <= 30, f"{subject.sentence!r}: expected 0.2 to 30 s, found {seconds:.2f} s")
    expect(float(np.abs(found).max()) > _QUIET, f"{subject.sentence!r}: expected sound, found silence")
    twice = subject.speak(f"{subject.sentence} {subject.sentence}")
    expect(
        len(twice) > len(found),
        f"{subject.sentence!r} twice: expected more than {len(found)} samples, as of it once, found "
        f"{len(twice)}",
    )


@check_named("again_is_the_same")
def spoken_again_is_the_same(subject: VoiceSubject) -> None:
    """The same text is spoken alike each time, also by a voice that is new: data can be made again."""
    first, again = expect_not_seeded(lambda: subject.speak(subject.sentence))
    subject.speak(subject.sentence, speed=1.5, semitones=_SHIFT)
    later = subject.speak(subject.sentence)
    by_another = subject.build().speak(subject.sentence)
    for what, found in {"a second time": again, "after others": later, "by a new voice": by_another}.items():
        expect(
            np.array_equal(found, first),
            f"{subject.sentence!r} {what}: expected the same samples, found others",
        )


def speed_shortens(subject: VoiceSubject) -> None:
    """Speech at a higher speed is shorter, at a lower one longer."""
    slow, own, fast = (len(subject.speak(subject.sentence, speed=speed)) for speed in (0.7, 1.0, 1.5))
    expect(
        fast < own < slow,
        f"speed 0.7, 1 and 1.5: expected fewer samples the faster it speaks, found {slow}, {own}, {fast}",
    )


def pitch_changes_the_sound(subject: VoiceSubject) -> None:
    """Speech is higher by as many semitones as are asked for, and lower, within a half; about as long."""
    rate = subject.voice.sample_rate
    own = subject.speak(subject.sentence)
    for shift in (_SHIFT, -_SHIFT):
        other = subject.speak(subject.sentence, semitones=shift)
        expect(
            0.8 * len(own) <= len(other) <= 1.25 * len(own),
            f"semitones {shift:g}: expected about the length of {len(own)} samples, found {len(other)}",
        )
        found = _semitones_above(own, other, rate)
        expect(
            abs(found - shift) <= _SHIFT / 2,
            f"semitones {shift:g}: expected a sound of that pitch above its own, found {found:.1f}",
        )


def _semitones_above(one: NDArray[np.float32], other: NDArray[np.float32], rate: int) -> float:
    """Return how much the second sound is above the first: where their periods agree best [semitones]."""
    first, second = (_periods(sound, rate) for sound in (one, other))
    most = round(_WIDEST / _STEP)
    scores = {}
    for steps in range(-most, most + 1):
        mine = first[max(steps, 0) : len(first) + min(steps, 0)]
        its = second[max(-steps, 0) : len(second) + min(-steps, 0)]
        scores[steps] = float(np.corrcoef(mine, its)[0, 1])
    return max(scores, key=lambda steps: scores[steps]) * _STEP


def _periods(sound: NDArray[np.float32], rate: int) -> NDArray[np.float64]:
    """Return how periodic a sound is at periods from 1 / 1500 to 1 / 60 s, `_STEP` apart: the mean over its
    frames of the normalised autocorrelation (Boersma 1993, which divides by the window's own).
    """
    size = round(_FRAME * rate)
    window = np.hanning(size)
    lags = rate / 1500 * 2 ** (np.arange(0, 12 * np.log2(1500 / 60), _STEP) / 12)
    loud = 0.1 * float(np.abs(sound).max())
    found = np.zeros(len(lags))
    for start in range(0, len(sound) - size, size // 2):
        frame = sound[start : start + size].astype(np.float64)
        if np.abs(frame).max() >= loud:
            alike = _autocorrelation((frame - frame.mean()) * window) / _autocorrelation(window)
            found += np.interp(lags, np.arange(size), alike)
    return found


def _autocorrelation(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    size = len(values)
    found = np.fft.irfft(np.abs(np.fft.rfft(values, 2 * size)) ** 2)[:size].astype(np.float64)
    if values.min() >= 0:  # a window's: it is divided by
        found = np.maximum(found, 1e-6 * found[0])
    scaled: NDArray[np.float64] = found / (found[0] + 1e-12)
    return scaled


@check_named("odd_texts_are_taken_or_refused")
def odd_texts_are_spoken_or_refused(subject: VoiceSubject) -> None:
    """Any text is spoken, or a ValueError says why it cannot be; never another error."""
    for text in _ODD:
        try:
            with expect_no_error(f"{text!r}: expected samples or a ValueError", ValueError):
                subject.speak(text)
        except ValueError as error:
            expect(bool(str(error).strip()), f"{text!r}: expected an error that says why, found an empty one")
