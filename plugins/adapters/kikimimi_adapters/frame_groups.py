"""Frames of clips in groups of equal size, each clip as if it were alone."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from kikimimi import Padded


def zero_past_lengths(features: Padded) -> Tensor:
    """Return (B, F, E) frames, zero where they are not real; filled, as what stands there may be NaN."""
    return features.values.masked_fill(~features.mask()[..., None], 0.0)


@dataclass(frozen=True)
class FrameGroups:
    """Groups of frames that follow each other.

    Attributes:
        frames: (B, groups, size, E), zero where not real.
        real: (B, groups, size) bool, false past the lengths.
    """

    frames: Tensor
    real: Tensor

    @classmethod
    def split(cls, features: Padded, size: int, num_groups: int) -> Self:
        """Split (B, F, E) frames into `num_groups` groups; frames that are in none of them are cut off."""
        batch, longest, dim = features.values.shape
        # Below zero, padding cuts off.
        missing = num_groups * size - longest
        frames = nn.functional.pad(zero_past_lengths(features), (0, 0, 0, missing))
        real = nn.functional.pad(features.mask(), (0, missing))
        return cls(frames.reshape(batch, num_groups, size, dim), real.reshape(batch, num_groups, size))

    def mean(self) -> Tensor:
        """Return (B, groups, E): the mean of the real frames of each group, zero where there are none."""
        # The last group of a clip may be short, and those past its end are empty.
        return self.frames.sum(2) / self.real.sum(2).clamp(min=1)[..., None].to(self.frames.dtype)
