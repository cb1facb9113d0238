"""SpecAugment: bands and stretches of a spectrogram hidden at random while training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from kikimimi import NonNegativeInt, Options, PositiveInt


@dataclass(kw_only=True, frozen=True)
class SpecAugment(Options):
    """Masks of Park et al. 2019 (arXiv 1904.08779, section 2), without the time warping.

    The defaults are the paper's policy "Switchboard strong" (its table 1).
    """

    num_freq_masks: NonNegativeInt = 2
    """Masks over mel bands for each clip."""
    freq_width: PositiveInt = 27
    """Widest mask over mel bands [bands]; each mask's width is drawn uniformly from 0 to this."""
    num_time_masks: NonNegativeInt = 2
    """Masks over time for each clip."""
    time_width: PositiveInt = 70
    """Widest mask over time [spectrogram frames, of 10 ms as a rule]; each mask's width is drawn uniformly
    from 0 to this."""
    max_time_fraction: Annotated[float, Gt(0), Le(1)] = 0.2
    """Widest mask over time as a fraction of the clip's own length, above 0 and at most 1 (the paper's p)."""

    def __post_init__(self) -> None:
        if self.num_freq_masks == 0 and self.num_time_masks == 0:
            raise ValueError("num_freq_masks and num_time_masks are both 0; leave out spec_augment instead")


class SpectrogramMasking(nn.Module):
    """Applies SpecAugment in train mode, each clip with masks of its own; in eval mode it does nothing.

    Masked values become the mean of the clip's spectrogram, which the paper's normalised features have at
    zero. Written out here because `torchaudio.functional.mask_along_axis_iid` knows one length for the whole
    batch: it would mask padding, and measure `max_time_fraction` on it.

    Args:
        config: Numbers and widths of masks.
        num_mels: Mel bands of the spectrograms.

    Raises:
        ValueError: A mask may be wider than the spectrogram.
    """

    def __init__(self, config: SpecAugment, num_mels: int) -> None:
        super().__init__()
        if config.num_freq_masks and config.freq_width > num_mels:
            raise ValueError(
                f"spec_augment.freq_width must be at most {num_mels}, the encoder's mel bands, not "
                f"{config.freq_width}"
            )
        self.config = config

    def forward(self, spectrogram: Tensor, lengths: Sequence[int]) -> Tensor:
        """Mask.

        Args:
            spectrogram: (B, mels, frames).
            lengths: Frames of each clip, at least 1; what stands past them is left as it is.

        Returns:
            (B, mels, frames), a new tensor in train mode.
        """
        if not self.training:
            return spectrogram
        config, (batch, bands, frames) = self.config, spectrogram.shape
        real = torch.tensor(lengths, device=spectrogram.device)
        inside = (torch.arange(frames, device=real.device) < real[:, None])[:, None]  # (B, 1, frames)
        sums = spectrogram.masked_fill(~inside, 0).float().sum((1, 2))
        means = (sums / (real * bands)).to(spectrogram.dtype)[:, None, None]
        widest = (real * config.max_time_fraction).long().clamp(max=config.time_width)
        low = _stripes(config.num_freq_masks, real.new_full((batch,), config.freq_width), real * 0 + bands)
        when = _stripes(config.num_time_masks, widest, real)
        hidden = _cover(low, bands)[:, :, None] | _cover(when, frames)[:, None]  # (B, mels, frames)
        return torch.where(hidden & inside, means, spectrogram)


def _stripes(count: int, widest: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
    """Draw (B, count) starts and ends: widths from 0 to `widest` (B), anywhere within `extent` (B)."""
    draws = torch.rand(2, len(widest), count, device=widest.device)
    widths = (draws[0] * (widest + 1)[:, None]).long()
    starts = (draws[1] * (extent[:, None] - widths + 1)).long()
    return starts, starts + widths


def _cover(stripes: tuple[Tensor, Tensor], size: int) -> Tensor:
    """Return (B, size) bool, true within any of the (B, count) stripes."""
    positions = torch.arange(size, device=stripes[0].device)
    starts, ends = (edge[..., None] for edge in stripes)  # (B, count, 1)
    return ((positions >= starts) & (positions < ends)).any(1)
