"""Batch norm over the real frames of a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_real_frames(norm: nn.BatchNorm1d, hidden: Tensor, real: Tensor | None) -> Tensor:
    """Apply batch norm, which while it trains takes its statistics from real frames alone.

    Args:
        norm: The layer.
        hidden: (B, F, E).
        real: (B, F) bool, true for a clip's own frames; None where all are.

    Returns:
        (B, F, E); while training, zero where not real.
    """
    frames = hidden.flatten(0, 1) if real is None or not norm.training else hidden[real]
    if norm.training and len(frames) == 1:
        # A single frame has no variance; the running statistics are all there is.
        normed = F.batch_norm(
            frames, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
    else:
        normed = norm(frames)
    if real is None or not norm.training:
        return normed.view_as(hidden)
    return torch.zeros_like(hidden, dtype=normed.dtype).masked_scatter(real[..., None], normed)
