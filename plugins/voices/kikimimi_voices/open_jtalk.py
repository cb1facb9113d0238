"""Open JTalk: Japanese HMM speech synthesis that runs anywhere, many times faster than real time."""

import io
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi import MissingExtraError, RequestError, Voice, VoiceConfig

_FULL_SCALE = 32768.0  # Open JTalk counts in 16-bit integers, and may go beyond them


@dataclass(kw_only=True, frozen=True)
class OpenJTalkConfig(VoiceConfig):
    """Open JTalk has one voice and no options."""


class OpenJTalk(Voice):
    """Open JTalk with the HTS voice "mei" (normal) that pyopenjtalk-plus carries. No download.

    The text is read by MeCab and Sudachi dictionaries, so homographs get one reading each, not always the one
    that was meant: listen to what you train on.

    Source: https://open-jtalk.sp.nitech.ac.jp, https://github.com/tsukumijima/pyopenjtalk-plus

    Raises:
        MissingExtraError: pyopenjtalk-plus is not installed.
    """

    Config = OpenJTalkConfig
    sample_rate = 48_000
    language = "ja"

    def __init__(self, config: OpenJTalkConfig) -> None:
        super().__init__(config)
        self._engine = _engine()

    def speak(self, text: str, *, speed: float = 1.0, semitones: float = 0.0) -> NDArray[np.float32]:
        """Speak a Japanese text.

        Args:
            text: What to say.
            speed: Relative rate of speech, above 0; 1 is the voice's own.
            semitones: Shift of pitch.

        Returns:
            (S,) mono float32 at 48 kHz. Speech that is louder than full scale is turned down as a whole.

        Raises:
            ValueError: `speed` is not above 0, or nothing in the text can be spoken.
        """
        if not speed > 0:
            raise ValueError(f"speed must be above 0, not {speed}")
        with warnings.catch_warnings():
            # pyopenjtalk-plus calls a name of sudachipy that is about to be renamed.
            warnings.filterwarnings("ignore", message=r"Dictionary\.create", category=DeprecationWarning)
            labels = self._engine.extract_fullcontext(text, predict_nani=False)
        # Two labels are the silences before and after; without a phoneme between them nothing is spoken.
        if len(labels) <= 2:
            raise ValueError(f"open_jtalk finds nothing to speak in {text!r}")
        waveform, sample_rate = self._engine.synthesize(labels, speed, semitones)
        if sample_rate != self.sample_rate:
            raise RequestError(
                f"open_jtalk speaks at {sample_rate} Hz, not {self.sample_rate}: another HTS voice is set"
            )
        samples: NDArray[np.float32] = (waveform / _FULL_SCALE).astype(np.float32)
        peak = np.float32(np.abs(samples).max())
        return samples / peak if peak > 1 else samples


def _engine() -> Any:
    try:
        # At import it prints that an optional part is missing, which `speak` switches off.
        with redirect_stdout(io.StringIO()):
            import pyopenjtalk
    except ModuleNotFoundError as error:
        if error.name != "pyopenjtalk":
            raise
        raise MissingExtraError("The voice 'open_jtalk'", "pyopenjtalk-plus", "quickstart") from error
    return pyopenjtalk
