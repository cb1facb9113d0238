"""Where somebody speaks: Silero VAD 6, in PyTorch, with the weights that the package silero-vad carries.

Of the package only its safetensors file is read. Its code is not imported: that would set the number of
threads of the whole process, and load a TorchScript file, which holds pickles.

Source: https://github.com/snakers4/silero-vad (MIT).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from kikimimi.weights.files import load_state
from kikimimi.weights.find import find_weights

VAD_RATE = 16_000
"""Sampling rate that the detector hears [Hz]."""
CHUNK_SECONDS = 0.032
"""Length of the chunks of which the detector says whether they are speech [s]."""
_CHUNK = 512  # samples

_WEIGHTS = "package:silero_vad/silero_vad_16k.safetensors"
_CONTEXT = 64  # samples of the chunk before
_BINS = 129
_TOGETHER = 512  # chunks
_State = tuple[Tensor, Tensor]


class SileroVAD(nn.Module):
    """Says of each chunk of 32 ms how probable it is that somebody speaks."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * _BINS, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(_BINS, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, chunks: Tensor, state: _State | None = None) -> tuple[Tensor, _State]:
        """Hear (N, 576) chunks that follow one another, each with the last 64 samples of the one before.

        Args:
            chunks: (N, 576) at `VAD_RATE`.
            state: What the call before returned; None at the beginning.

        Returns:
            (N,) probabilities of speech, and the state for the chunks that follow.
        """
        padded = F.pad(chunks[:, None], (0, _CONTEXT), mode="reflect")
        spectrum = self.stft_conv(padded)  # (N, 2 * bins, 4): real and imaginary parts
        x = (spectrum[:, :_BINS].square() + spectrum[:, _BINS:].square()).sqrt()
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(x).relu()
        hidden, after = self.lstm(x.squeeze(-1), state)  # (N, 128, 1) -> (N, 128)
        return self.final_conv(hidden.relu()[..., None]).sigmoid().flatten(), after


@cache
def load_voice_activity() -> SileroVAD:
    """Return the detector, with the weights of the package silero-vad.

    Raises:
        WeightsError: The package is not there, or carries other weights.
    """
    files = find_weights(_WEIGHTS)
    assert files is not None
    vad = SileroVAD()
    load_state(vad, files.state_dict(rename=_lstm_name), source=files.source)
    return vad.eval().requires_grad_(False)


def _lstm_name(name: str) -> str | None:
    cell = name.removeprefix("lstm_cell.")
    return name if cell == name else f"lstm.{cell}_l0"


class SpeechDetector:
    """Hears a recording block by block.

    Args:
        sample_rate: Sampling rate of the blocks [Hz].
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._vad = load_voice_activity()
        self._state: _State | None = None
        self._held: NDArray[np.float32] = np.zeros(_CONTEXT, np.float32)  # context, and what is no chunk yet
        self._resampler = None if sample_rate == VAD_RATE else _Resampler(sample_rate, VAD_RATE)

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Hear (S,) samples; return the probabilities of speech in the chunks that are whole by now."""
        if self._resampler is not None:
            block = self._resampler.push(block)
        held = np.concatenate([self._held, block])
        chunks = (len(held) - _CONTEXT) // _CHUNK
        self._held = held[chunks * _CHUNK :]
        if chunks == 0:
            return np.zeros(0, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(held, _CONTEXT + _CHUNK)[::_CHUNK]
        found = []
        with torch.inference_mode():
            for start in range(0, chunks, _TOGETHER):
                heard = torch.from_numpy(windows[start : min(start + _TOGETHER, chunks)].copy())
                speech, self._state = self._vad(heard, self._state)
                found.append(speech.numpy())
        return np.concatenate(found)

    def finish(self) -> NDArray[np.float32]:
        """Hear the end of the recording; return the probability in what is left of it, if anything is."""
        left = len(self._held) - _CONTEXT
        silence = np.zeros(_CHUNK - left, np.float32)
        self._resampler = None
        return self.push(silence) if left else silence[:0]


class _Resampler:
    """Changes the rate of blocks; near enough for a detector: the filter's end sees silence.

    `kikimimi.data.audio.resampled` is exact, and needs blocks of minutes.
    """

    def __init__(self, rate: int, wanted: int) -> None:
        common = int(np.gcd(rate, wanted))
        self._old, self._new = rate // common, wanted // common
        self._units = -(-rate // 50 // self._old)  # 20 ms before the block
        self._held: NDArray[np.float32] = np.zeros(self._units * self._old, np.float32)

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        from torchaudio import functional

        held = np.concatenate([self._held, block])
        units = len(held) // self._old - self._units
        if units <= 0:
            self._held = held
            return held[:0]
        whole = torch.from_numpy(held[: (self._units + units) * self._old])
        self._held = held[units * self._old :]
        made: NDArray[np.float32] = functional.resample(whole, self._old, self._new).numpy()
        return made[self._units * self._new :]
