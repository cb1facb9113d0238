"""Log-mel spectrograms: those of Whisper and those of Parakeet, of each clip as if it were alone."""

from functools import lru_cache

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from kikimimi import Padded, full_precision
from kikimimi_encoders.pretrained import SAMPLE_RATE

HOP = 160
WINDOW = 400
FFT = 512
"""Length of Parakeet's transform [samples]; Whisper's is that of the window."""
PREEMPHASIS = 0.97
MIN_FRAMES = 2
"""Fewest frames of a clip before Parakeet: a standard deviation needs two."""


def num_mel_frames(num_samples: int) -> int:
    """Return how many hops of 10 ms a clip touches: at least 1; the last may be a partial one."""
    return max(1, -(-num_samples // HOP))


def log_mel(audio: Padded, num_mels: int, window_samples: int, *, whole_window: bool) -> Tensor:
    """Compute Whisper's log-mel spectrogram in float32.

    The frames of a clip are those that Whisper computes of the clip padded with silence to its window
    (Radford et al. 2022, section 2.2; `WhisperFeatureExtractor` in transformers), relative to the clip's own
    maximum. They depend on nothing else in the batch.

    Args:
        audio: (B, S) waveforms at 16 kHz.
        num_mels: Mel bands.
        window_samples: Length of Whisper's window, or of several; no clip is longer.
        whole_window: Return the frames of the whole window, not only up to the end of the longest clip.

    Returns:
        (B, num_mels, frames).
    """
    # Autocast would run the mel product in half precision.
    with torch.no_grad(), full_precision(audio.values.device):
        longest = int(audio.lengths.max())
        waves = audio.values[:, :longest].float().masked_fill(~audio.mask()[:, :longest], 0.0)
        # An FFT window further, all is silence, and reflecting silence at the end is silence again.
        length = HOP * num_mel_frames(longest + WINDOW)
        length = window_samples if whole_window else min(window_samples, length)
        waves = torch.nn.functional.pad(waves, (0, length - longest))
        spectrum = torch.stft(waves, WINDOW, HOP, window=_hann(True, waves.device), return_complex=True)
        # The reference drops the frame centred on the end of the window.
        power = spectrum[..., :-1].abs().square()
        filters = _mel_filters(num_mels, WINDOW // 2 + 1, waves.device)
        mel = (filters @ power).clamp(min=1e-10).log10()
        mel = torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - 8.0)
        return ((mel + 4.0) / 4.0)[..., : None if whole_window else num_mel_frames(longest)]


def num_own_mel_frames(num_samples: int) -> int:
    """Return the whole hops of 10 ms in a clip, at least 1."""
    return max(1, num_samples // HOP)


def log_mel_alone(audio: Padded, num_mels: int) -> Padded:
    """Compute Whisper's log-mel spectrogram of each clip without a window, in float32.

    As `WhisperFeatureExtractor` in transformers with `padding=True` does of a clip alone: past its ends lies
    its own reflection. Such a reflection needs 201 samples; a shorter clip is taken with silence up to them.

    Args:
        audio: (B, S) waveforms at 16 kHz.
        num_mels: Mel bands.

    Returns:
        (B, num_mels, frames) with lengths in frames.
    """
    # Autocast would run the mel product in half precision.
    with torch.no_grad(), full_precision(audio.values.device):
        half = WINDOW // 2
        waves = audio.values.float().masked_fill(~audio.mask(), 0.0)
        waves = torch.nn.functional.pad(waves, (0, max(0, half + 1 - waves.shape[1])))
        own: list[int] = audio.lengths.tolist()
        taken = [max(half + 1, length) for length in own]
        positions = torch.arange(-half, max(taken) + half, device=waves.device).abs()
        last = torch.tensor(taken, device=waves.device)[:, None] - 1
        # (B, S + 400)
        reflected = torch.where(positions > last, 2 * last - positions, positions).clamp(min=0)
        spectrum = torch.stft(
            waves.gather(1, reflected),
            WINDOW,
            HOP,
            window=_hann(True, waves.device),
            center=False,
            return_complex=True,
        )
        counts = [num_own_mel_frames(length) for length in own]
        power = spectrum[..., : max(counts)].abs().square()
        filters = _mel_filters(num_mels, WINDOW // 2 + 1, waves.device)
        mel = (filters @ power).clamp(min=1e-10).log10()
        ends = torch.tensor(counts, device=mel.device)[:, None]
        past = torch.arange(mel.shape[-1], device=mel.device) >= ends
        # What lies past a clip is not to be its maximum.
        highest = mel.masked_fill(past[:, None], -10.0).amax(dim=(1, 2), keepdim=True)
        mel = (torch.maximum(mel, highest - 8.0) + 4.0) / 4.0
        return Padded(mel, torch.tensor(counts, device=audio.lengths.device))


def num_whole_hops(num_samples: int) -> int:
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
        lengths = [num_whole_hops(length) for length in audio.lengths.tolist()]
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
            window=_hann(False, waves.device),
            pad_mode="constant",
            return_complex=True,
        )
        # (B, bins, frames) -> (B, mels, frames)
        filters = _mel_filters(num_mels, FFT // 2 + 1, waves.device)
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


# Not buffers: those would follow the module to bfloat16, or to the meta device and be lost there.
@lru_cache(maxsize=8)
def _hann(periodic: bool, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(WINDOW, periodic=periodic, device=device)


@lru_cache(maxsize=8)
def _mel_filters(num_mels: int, num_bins: int, device: torch.device) -> Tensor:
    """Return (num_mels, num_bins) triangles of equal area on Slaney's mel scale, up to half the rate."""
    with torch.inference_mode(False):
        filters = mel_filter_bank(
            num_frequency_bins=num_bins,
            num_mel_filters=num_mels,
            min_frequency=0.0,
            max_frequency=SAMPLE_RATE / 2,
            sampling_rate=SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        return torch.from_numpy(filters.T.copy()).float().to(device)
