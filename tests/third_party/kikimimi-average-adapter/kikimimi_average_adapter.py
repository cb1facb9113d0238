"""Averages of frames, layer normalisation, one linear layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from kikimimi import Adapter, AdapterContext, AdapterOutput, ComponentConfig, Padded


class Projection(nn.Sequential):
    """Layer normalisation, then one linear layer."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(nn.LayerNorm(in_dim), nn.Linear(in_dim, out_dim))


class AverageAdapter(Adapter):
    """Each `downsample` frames become one audio token: their mean, normalised and projected.

    Frames that do not fill the last group are averaged among themselves.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `average` adapter."""

        downsample: int = 4
        """Encoder frames per audio token."""

        def __post_init__(self) -> None:
            if self.downsample < 1:
                raise ValueError(f"downsample must be at least 1, not {self.downsample}")

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.projection = Projection(context.in_dim, context.out_dim)

    def max_tokens(self, num_frames: int) -> int:
        """Return ceil(F / downsample), which is exact."""
        return -(-num_frames // self.config.downsample)

    def forward(self, features: Padded) -> AdapterOutput:
        """Adapt (B, F, E) to (B, ceil(F / downsample), D)."""
        means = [
            torch.stack([group.mean(0) for group in clip.split(self.config.downsample)])
            for clip in features.unstack()
        ]
        pooled = Padded.stack(means)  # (B, T, E)
        return AdapterOutput(Padded(self.projection(pooled.values), pooled.lengths))
