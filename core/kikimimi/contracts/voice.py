"""The contract of a voice: text to speech for synthetic data."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kikimimi.contracts.options import Options


@dataclass(kw_only=True, frozen=True)
class VoiceConfig(Options):
    """Base of every voice's nested `Config`."""


class Voice(ABC):
    """Speaks text. Built as `Voice(config)`.

    Attributes:
        sample_rate: The sampling rate of what it returns [Hz].
        language: ISO 639-1 code of what it can speak.
    """

    Config: ClassVar[type[VoiceConfig]]
    sample_rate: int
    language: str

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def speak(self, text: str, *, speed: float = 1.0, semitones: float = 0.0) -> NDArray[np.float32]:
        """Speak a text.

        Args:
            text: What to say.
            speed: Relative rate of speech; 1 is the voice's own.
            semitones: Shift of pitch, upwards where it is above 0 [semitones].

        Returns:
            (S,) mono float32 in [-1, 1] at `sample_rate`.
        """
