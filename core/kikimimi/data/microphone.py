"""The microphone of this machine, as blocks of samples."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi.errors import KikimimiError, MissingExtraError


class Microphone:
    """The microphone of this machine.

    Args:
        sample_rate: Wanted rate [Hz]; None is the device's own.

    Attributes:
        rate: Sampling rate [Hz].

    Raises:
        MissingExtraError: The package sounddevice is not installed.
        KikimimiError: PortAudio is not.
    """

    def __init__(self, sample_rate: int | None = None) -> None:
        self._sound = load_sounddevice()
        self.rate = sample_rate or self._own_rate()
        self._blocks: queue.SimpleQueue[NDArray[np.float32] | None] = queue.SimpleQueue()

    def stop(self) -> None:
        """Let it end with what was recorded by now."""
        self._blocks.put(None)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Record until it is stopped; yield (S,) mono float32 as they come, end to end.

        Raises:
            KikimimiError: There is no microphone, or it cannot be used.
        """

        def keep(block: NDArray[np.float32], *_: Any) -> None:
            self._blocks.put(block[:, 0].copy())

        with (
            self._told(),
            self._sound.InputStream(
                samplerate=self.rate, blocksize=self.rate // 20, channels=1, dtype="float32", callback=keep
            ),
        ):
            while (block := self._blocks.get()) is not None:
                yield block

    def _own_rate(self) -> int:
        with self._told():
            return int(self._sound.query_devices(kind="input")["default_samplerate"])

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._sound.PortAudioError as error:
            raise KikimimiError(
                f"the microphone cannot be used: {error}. 'python -m sounddevice' lists what the system "
                "offers"
            ) from error


def load_sounddevice() -> Any:
    """Return the library that records.

    Raises:
        MissingExtraError: The package sounddevice is not installed.
        KikimimiError: PortAudio is not.
    """
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("the microphone", "sounddevice", "mic") from error
    except OSError as error:  # the wheel for Linux carries no PortAudio
        raise KikimimiError(
            f"the microphone needs PortAudio, which is not installed ({error}). Install it with: "
            "apt install libportaudio2, or what your system calls it"
        ) from error
    return sounddevice
