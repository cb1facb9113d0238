from __future__ import annotations

import numpy as np
import pytest
from kikimimi_morse import CODE, Morse, signals
from numpy.typing import NDArray

from kikimimi.testing import Check, parametrize_checks


@parametrize_checks(Morse, default=Morse.Config(), slow_and_low=Morse.Config(words_per_minute=12, pitch=300))
def test_contract(check: Check) -> None:
    check()


def test_paris_is_fifty_dots_long() -> None:
    """With the space after it, of which the last dot's own pause is one."""
    assert len(list(signals("Paris"))) + 6 == 50


def read(samples: NDArray[np.float32], dot: int) -> str:
    """Read a text back from its sound."""
    down = [bool(np.abs(samples[at : at + dot]).max() > 0.25) for at in range(0, len(samples), dot)]
    line = "".join("x" if one else " " for one in down).rstrip()
    letters = {code: letter for letter, code in CODE.items()}
    words = [
        [
            "".join("-" if len(sign) == 3 else "." for sign in letter.split(" "))
            for letter in word.split("   ")
        ]
        for word in line.split(" " * 7)
    ]
    return " ".join("".join(letters[code] for code in word) for word in words)


@pytest.mark.parametrize("text", ["what hath god wrought?", " ".join(CODE)])
def test_it_can_be_read_back(text: str) -> None:
    samples = Morse(Morse.Config(words_per_minute=24)).speak(text.upper())
    assert read(samples, 800) == text


def test_the_tone_has_its_pitch() -> None:
    samples = Morse(Morse.Config(pitch=500)).speak("ttt", semitones=12)
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(np.argmax(spectrum) * 16_000 / len(samples) - 1000) < 2


def test_what_cannot_be_keyed_is_named() -> None:
    voice = Morse(Morse.Config())
    with pytest.raises(ValueError, match=r"Morse code has no '!', 'ç'\. It has: a b"):
        voice.speak("Ça va!")
    with pytest.raises(ValueError, match="there is nothing to key in ' '"):
        voice.speak(" ")
    with pytest.raises(ValueError, match="a tone of 9600 Hz is too high"):
        voice.speak("e", semitones=48)
