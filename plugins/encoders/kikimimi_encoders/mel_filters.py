"""The mel filters of Whisper and of Parakeet."""

from functools import lru_cache

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank


# Not a buffer: that would follow the module to bfloat16, or to the meta device and be lost there.
@lru_cache(maxsize=8)
def mel_filters(num_mels: int, num_bins: int, sample_rate: int, device: torch.device) -> Tensor:
    """Return (num_mels, num_bins) triangles of equal area on Slaney's mel scale, up to half the rate [Hz]."""
    with torch.inference_mode(False):
        filters = mel_filter_bank(
            num_frequency_bins=num_bins,
            num_mel_filters=num_mels,
            min_frequency=0.0,
            max_frequency=sample_rate / 2,
            sampling_rate=sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        return torch.from_numpy(filters.T.copy()).float().to(device)
