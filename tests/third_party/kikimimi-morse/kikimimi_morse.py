"""International Morse code as a voice: texts that can be heard, and read back without an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kikimimi import PositiveFloat, Voice, VoiceConfig

CODE = {
    **dict(zip("abcdef", (".-", "-...", "-.-.", "-..", ".", "..-."), strict=True)),
    **dict(zip("ghijkl", ("--.", "....", "..", ".---", "-.-", ".-.."), strict=True)),
    **dict(zip("mnopqr", ("--", "-.", "---", ".--.", "--.-", ".-."), strict=True)),
    **dict(zip("stuvwx", ("...", "-", "..-", "...-", ".--", "-..-"), strict=True)),
    **dict(zip("yz", ("-.--", "--.."), strict=True)),
    **dict(zip("12345", (".----", "..---", "...--", "....-", "....."), strict=True)),
    **dict(zip("67890", ("-....", "--...", "---..", "----.", "-----"), strict=True)),
    **dict(zip(".,:?'-", (".-.-.-", "--..--", "---...", "..--..", ".----.", "-....-"), strict=True)),
    **dict(zip('/()"=+@', ("-..-.", "-.--.", "-.--.-", ".-..-.", "-...-", ".-.-.", ".--.-."), strict=True)),
}
"""Recommendation ITU-R M.1677-1, part I, 1.1."""
EDGE_SECONDS = 0.004
"""How long a tone takes to rise and to fall, so that it does not click."""


class Morse(Voice):
    """Keys a text in International Morse code, Recommendation ITU-R M.1677-1 (2009).

    A dash is three dots long; one dot's length parts the signals of a letter, three part letters, seven
    words. The speed counts the word PARIS, which is 50 dots long with the space after it.
    """

    contract_version = 1

    @dataclass(kw_only=True, frozen=True)
    class Config(VoiceConfig):
        """What a user may set."""

        words_per_minute: PositiveFloat = 25.0
        """Speed, in words of 50 dots [1/min]."""
        pitch: PositiveFloat = 600.0
        """Frequency of the tone [Hz]."""

    config: Config
    sample_rate = 16_000
    language = "en"

    def speak(self, text: str, *, speed: float = 1.0, semitones: float = 0.0) -> NDArray[np.float32]:
        """Return (S,) mono float32 in [-1, 1] at 16 kHz.

        Raises:
            ValueError: The text has a character that the code has not, or none at all; the tone is too high.
        """
        if not speed > 0:
            raise ValueError(f"speed must be above 0, not {speed}")
        pitch = self.config.pitch * 2 ** (semitones / 12)
        if pitch >= self.sample_rate / 2:
            raise ValueError(f"a tone of {pitch:g} Hz is too high for {self.sample_rate} samples per second")
        seconds = 60 / 50 / self.config.words_per_minute / speed
        keyed = np.array(list(signals(text)), dtype=bool)
        # Edges of the dots in samples: rounded once, so that long texts do not drift.
        edges = np.rint(np.arange(len(keyed) + 1) * seconds * self.sample_rate).astype(int)
        envelope = np.repeat(keyed, np.diff(edges)).astype(np.float32)
        half = max(1, round(EDGE_SECONDS * self.sample_rate / 2))
        ramp = np.hanning(2 * half + 1)
        smooth = np.convolve(np.pad(envelope, half), ramp / ramp.sum(), mode="valid")
        time = np.arange(len(smooth)) / self.sample_rate
        return (0.5 * smooth * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def signals(text: str) -> Iterator[bool]:
    """Yield for each dot's length whether the key is down.

    Raises:
        ValueError: The text has a character that the code has not, or none at all.
    """
    words = text.lower().split()
    unknown = sorted({letter for word in words for letter in word if letter not in CODE})
    if unknown:
        raise ValueError(f"Morse code has no {', '.join(map(repr, unknown))}. It has: {' '.join(CODE)}")
    if not words:
        raise ValueError(f"there is nothing to key in {text!r}")
    coded = "/".join(" ".join(CODE[letter] for letter in word) for word in words)
    lengths = {".": [True], "-": [True] * 3, " ": [False] * 2, "/": [False] * 6}
    for sign in coded:
        yield from lengths[sign]
        if sign in ".-":
            yield False
