"""Masks over spans of frames and of channels, by which wav2vec 2.0 and its kin are trained and fine-tuned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kikimimi import Padded

MIN_TIME_SPANS = 2
"""Fewest spans of frames in a clip, where as many fit: that of fairseq and of transformers."""


class SpanMasking(nn.Module):
    """Replaces spans of frames by a learned vector and sets spans of channels to zero, while training.

    SpecAugment (Park et al. 2019) on the projected frames, as Baevski et al. 2020 (arXiv 2006.11477, section
    4.3) do; the number of spans follows `_compute_mask_indices` of transformers and fairseq. Random numbers
    come from torch's generator on the CPU.

    Args:
        dim: Width E of the frames.
        time_prob: Share of a clip's frames in masks, were the spans never to overlap; 0 turns them off.
        time_length: Length of a span [frames].
        feature_prob: The same share of the channels; 0 turns them off.
        feature_length: Length of a span [channels].
    """

    masked_spec_embed: nn.Parameter | None

    def __init__(
        self, dim: int, *, time_prob: float, time_length: int, feature_prob: float, feature_length: int
    ) -> None:
        super().__init__()
        self.time_prob, self.time_length = time_prob, time_length
        self.feature_prob, self.feature_length = feature_prob, feature_length
        self.masked_spec_embed = nn.Parameter(torch.empty(dim).uniform_()) if time_prob else None

    def forward(self, frames: Padded) -> Tensor:
        """Mask (B, F, E) frames in training; in eval mode they come back as they are."""
        values = frames.values
        if not self.training:
            return values
        if self.masked_spec_embed is not None:
            clips = [
                spans(length, values.shape[1], self.time_prob, self.time_length, MIN_TIME_SPANS)
                for length in frames.lengths.tolist()
            ]
            mask = torch.stack(clips).to(values.device)[..., None]
            # With a `where` the vector has a gradient (zero) also where no frame happens to be masked.
            values = torch.where(mask, self.masked_spec_embed.to(values.dtype), values)
        if self.feature_prob:
            dim = values.shape[-1]
            channels = [
                spans(dim, dim, self.feature_prob, self.feature_length, 0) for _ in range(len(frames))
            ]
            values = values.masked_fill(torch.stack(channels).to(values.device)[:, None], 0.0)
        return values


def spans(length: int, width: int, prob: float, span: int, at_least: int) -> Tensor:
    """Draw a mask of spans that start at random and may overlap.

    Args:
        length: Positions that may be masked; none is if a span does not fit.
        width: Positions in all.
        prob: Number of spans times their length, as a share of `length`; rounded up or down at random.
        span: Length of a span.
        at_least: Fewest spans, where they fit.

    Returns:
        (width,) bool, true where masked.
    """
    number = max(int(prob * length / span + float(torch.rand(()))), at_least)
    number = min(number, length // span)
    mask = torch.zeros(width, dtype=torch.bool)
    if number:
        starts = torch.randperm(length - span + 1)[:number]
        mask[(starts[:, None] + torch.arange(span)).flatten()] = True
    return mask
