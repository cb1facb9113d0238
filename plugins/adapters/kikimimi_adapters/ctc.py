"""Frames that a CTC head gives one label become one audio token."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kikimimi import AdapterContext, LayerCount, PositiveInt
from kikimimi_adapters.ctc_head import CTCCompressor, CTCConfig, CTCHead, tiny_head
from kikimimi_adapters.mlp import MLP, check_projection, projection


class CTCAdapter(CTCCompressor):
    """CTC compressor: averages runs of frames with one label, then a projection.

    The compressor of Gaido et al. 2021 (arXiv 2102.01578: `mode: average`), which Speech-LLaMA (Wu et al.
    2023, arXiv 2307.03917) uses; it names dropping blank frames as another way. `mode: non_blank` drops them
    and then averages frames of one label: "a a" is one token, "a blank a" two. Whether the paper's second way
    averages too is not established. A clip of nothing but blanks becomes one token, the average of all its
    frames.

    The runs follow the best label of each frame; the gradient passes through the averages alone, so that the
    head learns from the CTC loss of the transcripts, or not at all (`freeze_head`). Both leave the tokens of
    a clip independent of its transcript, in training too.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(CTCConfig):
        """Options of the `ctc` adapter."""

        mode: Literal["average", "non_blank"] = "non_blank"
        """What becomes a token: every run of one label, runs of blanks included; or those of other labels."""
        num_layers: LayerCount = 1
        """Linear layers of the projection, with GELU between them."""
        hidden_dim: PositiveInt | None = None
        """Width between the layers; null is the LLM's width D. Refused with one layer."""

        def __post_init__(self) -> None:
            super().__post_init__()
            check_projection(self.num_layers, self.hidden_dim)

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.proj = projection(context.in_dim, context.out_dim, config.num_layers, config.hidden_dim)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with a head of bytes, random weights and a hidden width of 32."""
        chosen: CTCAdapter.Config = cls.Config() if config is None else config
        return replace(tiny_head(chosen), hidden_dim=32 if chosen.num_layers > 1 else None)

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the classes of the head and the projection."""
        return {CTCHead, MLP}

    def compress(self, frames: Tensor, real: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, T, D) tokens, T the number of runs, at least 1, and their lengths."""
        if frames.is_meta:  # content is unknown: at most, every frame is a token
            return self.proj(frames), torch.full((len(frames),), frames.shape[1])
        blank_id = self.ctc.blank_id if self.config.mode == "non_blank" else None
        groups, lengths = group_runs(labels, real, blank_id)
        return self.proj(average_groups(frames, groups, lengths)), lengths


def group_runs(labels: Tensor, real: Tensor, blank_id: int | None) -> tuple[Tensor, Tensor]:
    """Say which token each frame is part of.

    Args:
        labels: (B, F).
        real: (B, F) bool, false past the lengths.
        blank_id: The label whose frames are part of none, unless a clip has no other; None for no such label.

    Returns:
        (B, F) numbers of tokens, -1 for frames that are part of none, and (B,) how many each clip has.
    """
    spoken = real if blank_id is None else real & (labels != blank_id)
    # A clip of blanks: its only run is the one of all frames.
    spoken = torch.where(spoken.any(1, keepdim=True), spoken, real)
    first = spoken.clone()
    first[:, 1:] &= labels[:, 1:] != labels[:, :-1]
    groups = (first.cumsum(1) - 1).masked_fill(~spoken, -1)
    return groups, groups.amax(1) + 1


def average_groups(frames: Tensor, groups: Tensor, lengths: Tensor) -> Tensor:
    """Average the frames (B, F, E) of each group into (B, T, E), in float32.

    Args:
        frames: (B, F, E), finite.
        groups: (B, F) number of the group, -1 for none.
        lengths: (B,) groups of each clip.
    """
    longest = int(lengths.max())
    # The last row collects the frames of no group.
    index = groups.where(groups >= 0, longest)
    sums = frames.new_zeros(len(frames), longest + 1, frames.shape[2], dtype=torch.float32)
    sums = sums.scatter_add(1, index[..., None].expand_as(frames), frames.float())
    sizes = sums.new_zeros(len(frames), longest + 1).scatter_add(1, index, torch.ones_like(index).to(sums))
    means = sums[:, :-1] / sizes[:, :-1, None].clamp(min=1)
    return means.to(frames.dtype)
