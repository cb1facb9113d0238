"""Learned queries read the frames through a small transformer: of each window, or of the whole clip."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from kikimimi import (
    Adapter,
    AdapterContext,
    AdapterOutput,
    ComponentConfig,
    Padded,
    PositiveInt,
    Probability,
)
from kikimimi_adapters.frame_groups import FrameGroups
from kikimimi_adapters.qformer.layers import INIT_STD, NORM_EPS, QFormer, QFormerLayer


class QFormerAdapter(Adapter):
    """A Q-Former over windows of the clip, or over all of it.

    The defaults are SALMONN's window-level Q-Former (Tang et al. 2023, arXiv 2310.13289; `remainder: drop`
    for its exact recipe): one query for each third of a second, BERT-base's sizes, two layers.

    With `window_seconds: null` the queries see the whole clip, as in DeSTA2 (Lu et al. 2024, arXiv
    2409.20007: `num_queries: 64, query_norm: false, output_norm: true`). Where the encoder hands on several
    layers, each has its own queries, all pass through one Q-Former, and each query mixes what it read from
    the layers by a softmax of its own, as there.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `qformer` adapter."""

        num_queries: PositiveInt = 1
        """Queries, which are audio tokens, per window; or per clip without windows."""
        window_seconds: Annotated[float, Gt(0), Lt(math.inf)] | None = 0.333333
        """Length of the windows, which do not overlap [s], rounded to whole frames; null: one per clip."""
        remainder: Literal["keep", "drop"] = "keep"
        """What becomes of the frames that do not fill the last window: a window of their own, or dropped and
        counted (a clip shorter than one window is kept). Only the default is taken without windows."""
        num_layers: PositiveInt = 2
        """Transformer layers."""
        hidden_dim: PositiveInt = 768
        """Width of the queries."""
        num_heads: PositiveInt = 12
        """Attention heads; they divide `hidden_dim`."""
        ffn_dim: PositiveInt = 3072
        """Inner width of the feed-forward networks."""
        cross_attention_frequency: PositiveInt = 1
        """The first of so many layers attends to the frames (BLIP-2: 2)."""
        dropout: Probability = 0.1
        """Dropout probability, on attention weights and before residuals."""
        query_norm: bool = True
        """Whether queries pass a LayerNorm before the first layer. They start at a deviation of 0.02 with it,
        of 1 without."""
        output_norm: bool = False
        """Whether a LayerNorm stands before the projection to the LLM's width."""

        def __post_init__(self) -> None:
            if self.hidden_dim % self.num_heads:
                raise ValueError(f"num_heads ({self.num_heads}) must divide hidden_dim ({self.hidden_dim})")
            if self.window_seconds is None and self.remainder != "keep":
                raise ValueError("remainder is read only with window_seconds")

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.window: int | None = None
        if config.window_seconds is not None:
            self.window = round(config.window_seconds * context.frame_rate)
            if self.window < 1:
                raise ValueError(
                    f"window_seconds ({config.window_seconds}) is less than half a frame: the encoder gives "
                    f"{context.frame_rate:g} frames per second"
                )
        queries = torch.empty(context.num_taps, config.num_queries, config.hidden_dim)
        self.queries = nn.Parameter(nn.init.normal_(queries, std=INIT_STD if config.query_norm else 1.0))
        # Zeros: the layers start with equal shares.
        self.tap_weights = (
            nn.Parameter(torch.zeros(config.num_queries, context.num_taps)) if context.num_taps > 1 else None
        )
        self.qformer = QFormer(
            config,
            source_dim=context.in_dim // context.num_taps,
            num_queries=config.num_queries,
            cross_attention_frequency=config.cross_attention_frequency,
            input_norm=config.query_norm,
        )
        self.norm = nn.LayerNorm(config.hidden_dim, eps=NORM_EPS) if config.output_norm else None
        self.proj = nn.Linear(config.hidden_dim, context.out_dim)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with at most 2 layers x 32 and 4 queries."""
        chosen: QFormerAdapter.Config = cls.Config() if config is None else config
        return replace(
            chosen,
            num_queries=min(chosen.num_queries, 4),
            num_layers=min(chosen.num_layers, 2),
            hidden_dim=32,
            num_heads=4,
            ffn_dim=64,
        )

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the layer's class."""
        return {QFormerLayer}

    def max_tokens(self, num_frames: int) -> int:
        """Return `num_queries` for each window, or for the clip, which is exact."""
        return self.config.num_queries * self._num_windows(num_frames)

    def _num_windows(self, num_frames: int) -> int:
        if self.window is None:
            return 1
        if self.config.remainder == "drop":
            return max(1, num_frames // self.window)
        return -(-num_frames // self.window)

    def forward(self, features: Padded) -> AdapterOutput:
        """Adapt (B, F, E) to (B, windows x queries, D)."""
        lengths = features.lengths.tolist()
        num_windows = [self._num_windows(length) for length in lengths]
        size = self.window or features.values.shape[1]
        windows = FrameGroups.split(features, size, max(num_windows))
        counts = torch.tensor(num_windows)
        wanted = torch.arange(max(num_windows)) < counts[:, None]
        wanted = wanted.to(windows.real.device)
        # Windows past a clip's end have no frames to attend to: only the others are run. (N, window, E)
        read = self._read(windows.frames[wanted], windows.real[wanted])
        tokens = self.proj(read if self.norm is None else self.norm(read))
        padded = tokens.new_zeros(*wanted.shape, *tokens.shape[1:])
        padded[wanted] = tokens
        dropped = {}
        if self.config.remainder == "drop" and self.window is not None:
            kept = [min(n, count * self.window) for n, count in zip(lengths, num_windows, strict=True)]
            dropped = {"frames_dropped": sum(lengths) - sum(kept)}
        # (B, windows, Q, D) -> (B, windows x Q, D)
        out = Padded(padded.flatten(1, 2), counts.to(features.lengths.device) * self.config.num_queries)
        return AdapterOutput(out, counts=dropped)

    def _read(self, windows: Tensor, real: Tensor) -> Tensor:
        """Read (N, window, E) frames into (N, Q, H)."""
        taps = len(self.queries)
        # (N, window, taps x width) -> (N x taps, window, width)
        count, window, _ = windows.shape
        frames = windows.view(count, window, taps, -1).transpose(1, 2).flatten(0, 1)
        queries = self.queries.repeat(count, 1, 1)
        read: Tensor = self.qformer(queries, [(frames, real.repeat_interleave(taps, 0))])
        if self.tap_weights is None:
            return read
        shares = self.tap_weights.float().softmax(-1).T[..., None]  # (taps, Q, 1)
        return (read.view(count, taps, *read.shape[1:]) * shares.to(read.dtype)).sum(1)
