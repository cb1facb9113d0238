"""Recording from the microphone of the machine that the terminal belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.microphone import load_sounddevice
from kikimimi.errors import KikimimiError
from kikimimi.talking.recording import LONGEST_RECORDING


def record(sample_rate: int, until: Callable[[], object]) -> NDArray[np.float32]:
    """Record until a function returns, `LONGEST_RECORDING` at most.

    Args:
        sample_rate: Wanted rate [Hz].
        until: Returns when the recording is to end; it is called when it has begun.

    Returns:
        (S,) mono float32.

    Raises:
        MissingExtraError: The package for it is not installed.
        KikimimiError: There is no microphone, or it cannot be used.
    """
    sound = load_sounddevice()
    blocks: list[NDArray[np.float32]] = []
    room = int(LONGEST_RECORDING * sample_rate)

    def keep(block: NDArray[np.float32], *_: Any) -> None:
        if sum(map(len, blocks)) < room:
            blocks.append(block[:, 0].copy())

    try:
        with sound.InputStream(samplerate=sample_rate, channels=1, dtype="float32", callback=keep):
            until()
    except sound.PortAudioError as error:
        raise KikimimiError(
            f"the microphone cannot be used: {error}. 'python -m sounddevice' lists what the system offers; "
            "a file can be heard in its place: /audio FILE"
        ) from error
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
