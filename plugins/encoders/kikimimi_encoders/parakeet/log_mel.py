"""Parakeet's front end: log-mel spectrograms, each band normalised over the clip's own frames."""

from functools import lru_cache

import torch
from torch import Tensor

from kikimimi import Padded, full_precision
from kikimimi_encoders.mel_filters import mel_filters
from kikimimi_encoders.pretrained import SAMPLE_RATE

HOP = 160
FFT = 512
WINDOW = 400
PREEMPHASIS = 0.97
MIN_FRAMES = 2
"""Fewest frames of a clip: a standard deviation needs two."""


def num_mel_frames(num_samples: int) -> int:
    """Return the whole hops of 10 ms in a clip, at least 2."""
    return max(MIN_FRAMES, num_samples // HOP)


def normalised_log_mel(audio: Padded, num_mels: int) -> Padded:
    """Compute NeMo's features, as `ParakeetFeatureExtractor` in transformers does, in float32.

    A clip shorter than 320 samples (20 ms) is taken with silence after it up to them.

    Args:
        audio: (B, S) waveforms at 16 kHz.
        num_mels: Mel bands.

    Returns:
        (B, num_mels, frames) with lengths in frames; zero past them.
    """
    # Autocast would run the mel product in half precision.
    with torch.no_grad(), full_precision(audio.values.device):
        lengths = [num_mel_frames(length) for length in audio.lengths.tolist()]
        longest = int(audio.lengths.max())
        real = audio.mask()[:, :longest]
        waves = audio.values[:, :longest].float().masked_fill(~real, 0.0)
        waves = torch.cat([waves[:, :1], waves[:, 1:] - PREEMPHASIS * waves[:, :-1]], dim=1)
        # The first sample after a clip would hold an echo of its last one.
        waves = waves.masked_fill(~real, 0.0)
        waves = torch.nn.functional.pad(waves, (0, max(0, HOP * MIN_FRAMES - longest)))
        spectrum = torch.stft(
            waves,
            FFT,
            HOP,
            WINDOW,
            window=_window(waves.device),
            pad_mode="constant",
            return_complex=True,
        )
        # (B, bins, frames) -> (B, mels, frames)
        filters = mel_filters(num_mels, FFT // 2 + 1, SAMPLE_RATE, waves.device)
        mel = filters @ spectrum[..., : max(lengths)].abs().square()
        mel = (mel + 2.0**-24).log()
        counts = torch.tensor(lengths, device=mel.device)
        past = (torch.arange(mel.shape[-1], device=mel.device) >= counts[:, None])[:, None]
        # Relative to the first frame, so that a band that never changes has a deviation of exactly zero.
        mel = (mel - mel[..., :1]).masked_fill(past, 0.0)
        counts = counts[:, None, None]
        mel = mel - mel.sum(-1, keepdim=True) / counts
        squares = mel.square().masked_fill(past, 0.0)
        deviation = (squares.sum(-1, keepdim=True) / (counts - 1)).sqrt()
        mel = (mel / (deviation + 1e-5)).masked_fill(past, 0.0)
        return Padded(mel, torch.tensor(lengths, device=audio.lengths.device))


# Not a buffer: that would follow the module to bfloat16, or to the meta device and be lost there.
@lru_cache(maxsize=8)
def _window(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(WINDOW, periodic=False, device=device)
