from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from kikimimi.contracts.registry import load
from kikimimi.errors import MissingExtraError
from kikimimi_voices.open_jtalk import OpenJTalk, OpenJTalkConfig


def test_is_registered() -> None:
    assert load("voice", "open_jtalk") is OpenJTalk
    assert (OpenJTalk.sample_rate, OpenJTalk.language) == (48_000, "ja")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyopenjtalk", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'pyopenjtalk-plus'.*\[quickstart\]"):
        OpenJTalk(OpenJTalkConfig())


@pytest.mark.weights
def test_speaks(capfd: pytest.CaptureFixture[str]) -> None:
    voice = OpenJTalk(OpenJTalkConfig())
    normal = voice.speak("明日の東京は晴れでしょう。")
    assert normal.dtype == np.float32
    assert 1.5 < len(normal) / voice.sample_rate < 4
    assert 0.2 < np.abs(normal).max() <= 1
    fast = voice.speak("明日の東京は晴れでしょう。", speed=1.2)
    assert len(fast) / len(normal) == pytest.approx(1 / 1.2, abs=0.05)
    low = voice.speak("明日の東京は晴れでしょう。", semitones=-3)
    assert len(low) == len(normal)
    assert _pitch(low) / _pitch(normal) == pytest.approx(2 ** (-3 / 12), rel=0.03)
    # Shifts do not add up from call to call.
    np.testing.assert_array_equal(voice.speak("明日の東京は晴れでしょう。"), normal)
    assert np.abs(voice.speak("abc")).max() <= 1  # beyond 16 bits before it is turned down
    assert capfd.readouterr().out == ""


@pytest.mark.weights
@pytest.mark.parametrize("text", ["", "。", "！"])
def test_nothing_to_speak(text: str) -> None:
    with pytest.raises(ValueError, match="open_jtalk finds nothing to speak in"):
        OpenJTalk(OpenJTalkConfig()).speak(text)


@pytest.mark.weights
def test_speed_must_be_positive() -> None:
    with pytest.raises(ValueError, match="speed must be above 0, not 0"):
        OpenJTalk(OpenJTalkConfig()).speak("はい。", speed=0)


def _pitch(samples: NDArray[np.float32]) -> float:
    """Return the median fundamental frequency of voiced frames, by autocorrelation [Hz]."""
    rate, frame = 48_000, 4800
    pitches = []
    for begin in range(0, len(samples) - frame, frame // 4):
        part = samples[begin : begin + frame]
        correlation = np.correlate(part, part, "full")[frame - 1 :]
        lag = rate // 480 + int(np.argmax(correlation[rate // 480 : rate // 100]))
        if correlation[0] > 1 and correlation[lag] > 0.6 * correlation[0]:
            pitches.append(rate / lag)
    return float(np.median(pitches))
