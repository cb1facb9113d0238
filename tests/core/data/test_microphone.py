from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest

from kikimimi.data.microphone import Microphone
from kikimimi.errors import KikimimiError, MissingExtraError


class PortAudioError(Exception):
    """What sounddevice raises."""


class Stream:
    """Records four blocks as soon as it is opened."""

    def __init__(self, *, samplerate: int, blocksize: int, channels: int, dtype: str, callback: Any) -> None:
        assert (samplerate, blocksize, channels, dtype) == (44_100, 2_205, 1, "float32")
        self._callback = callback

    def __enter__(self) -> Self:
        block = np.zeros((5, 1), np.float32)
        for number in range(4):
            block[:] = number  # PortAudio uses its memory again
            self._callback(block, 5, None, None)
        return self

    def __exit__(self, *_: object) -> None: ...


def no_device(**_: Any) -> Any:
    raise PortAudioError("no default input device")


def test_what_is_recorded_comes_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def query_devices(kind: str) -> dict[str, float]:
        assert kind == "input"
        return {"default_samplerate": 44_100.0}

    sound = SimpleNamespace(InputStream=Stream, PortAudioError=PortAudioError, query_devices=query_devices)
    monkeypatch.setitem(sys.modules, "sounddevice", sound)
    microphone = Microphone()
    blocks = microphone.blocks()
    first = next(blocks)
    microphone.stop()
    assert [block.tolist() for block in [first, *blocks]] == [[float(number)] * 5 for number in range(4)]


def test_without_a_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = SimpleNamespace(InputStream=no_device, PortAudioError=PortAudioError, query_devices=no_device)
    monkeypatch.setitem(sys.modules, "sounddevice", sound)
    with pytest.raises(KikimimiError, match="microphone cannot be used: no default input device"):
        Microphone()
    with pytest.raises(KikimimiError, match="microphone cannot be used: no default input device"):
        next(Microphone(16_000).blocks())


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingExtraError, match=r"'sounddevice'.*kikimimi\[mic\]"):
        Microphone()
