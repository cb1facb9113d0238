"""Whisper's front end: log-mel spectrograms, of each clip as if it were alone in 30 s of silence."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from kikimimi import AudioError, Padded, full_precision
from kikimimi_encoders.mel_filters import mel_filters
from kikimimi_encoders.pretrained import SAMPLE_RATE

HOP = 160
_FFT = 400


def num_mel_frames(num_samples: int) -> int:
    """Return how many hops of 10 ms a clip touches: at least 1; the last may be a partial one."""
    return max(1, -(-num_samples // HOP))


def check_window(samples: Sequence[int], window: int, encoder: str) -> None:
    """Check that every clip fits the window.

    Args:
        samples: Lengths of the clips [samples].
        window: The longest allowed [samples].
        encoder: Registered name of the encoder, for the message.

    Raises:
        AudioError: A clip is longer.
    """
    for clip, length in enumerate(samples):
        if length > window:
            raise AudioError(
                f"clip {clip} of the batch lasts {length / SAMPLE_RATE:.2f} s ({length} samples), and "
                f"encoder '{encoder}' takes at most {window / SAMPLE_RATE:.2f} s ({window} samples)"
            )


def log_mel(audio: Padded, num_mels: int, window_samples: int, *, whole_window: bool) -> Tensor:
    """Compute Whisper's log-mel spectrogram in float32.

    The frames of a clip are those that Whisper computes of the clip padded with silence to its window
    (Radford et al. 2022, section 2.2; `WhisperFeatureExtractor` in transformers), relative to the clip's own
    maximum. They depend on nothing else in the batch.

    Args:
        audio: (B, S) waveforms at 16 kHz.
        num_mels: Mel bands.
        window_samples: Length of Whisper's window; no clip is longer.
        whole_window: Return the frames of the whole window, not only up to the end of the longest clip.

    Returns:
        (B, num_mels, frames).
    """
    # Autocast would run the mel product in half precision.
    with torch.no_grad(), full_precision(audio.values.device):
        longest = int(audio.lengths.max())
        waves = audio.values[:, :longest].float().masked_fill(~audio.mask()[:, :longest], 0.0)
        # An FFT window further, all is silence, and reflecting silence at the end is silence again.
        length = HOP * num_mel_frames(longest + _FFT)
        length = window_samples if whole_window else min(window_samples, length)
        waves = torch.nn.functional.pad(waves, (0, length - longest))
        spectrum = torch.stft(waves, _FFT, HOP, window=_hann(waves.device), return_complex=True)
        # The reference drops the frame centred on the end of the window.
        power = spectrum[..., :-1].abs().square()
        filters = mel_filters(num_mels, _FFT // 2 + 1, SAMPLE_RATE, waves.device)
        mel = (filters @ power).clamp(min=1e-10).log10()
        mel = torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - 8.0)
        return ((mel + 4.0) / 4.0)[..., : None if whole_window else num_mel_frames(longest)]


# Not a buffer: that would follow the module to bfloat16, or to the meta device and be lost there.
@lru_cache(maxsize=8)
def _hann(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.hann_window(_FFT, device=device)
