"""Frames that a CTC head gives one label become one audio token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kikimimi import Adapter, AdapterContext, AdapterOutput, Padded
from kikimimi_adapters.ctc_head import CTC, CTCConfig, CTCHead, tiny_head, zero_past_lengths
from kikimimi_adapters.mlp import MLP


class CTCAdapter(Adapter):
    """CTC compressor: averages runs of frames with one label, then a projection.

    The compressor of Gaido et al. 2021 (arXiv 2102.01578: `mode: average`) and, with `mode: non_blank`, the
    two ways of Speech-LLaMA (Wu et al. 2023, arXiv 2307.03917) joined: frames of one label are averaged,
    blank ones dropped. A clip of nothing but blanks becomes one token, the average of all its frames.

    The runs follow the best label of each frame; the gradient passes through the averages alone, so that the
    head learns from the CTC loss of the transcripts, or not at all (`freeze_head`). Both leave the tokens of
    a clip independent of its transcript, in training too.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(CTCConfig):
        """Options of the `ctc` adapter."""

        mode: Literal["average", "non_blank"] = "non_blank"
        """What becomes a token: every run of one label, runs of blanks included; or those of other labels."""
        num_layers: int = 1
        """Linear layers of the projection, with GELU between them."""
        hidden_dim: int | None = None
        """Width between the layers; null is the LLM's width D. Refused with one layer."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.mode not in ("average", "non_blank"):
                raise ValueError(f"mode must be average or non_blank, not {self.mode!r}")
            check_projection(self.num_layers, self.hidden_dim)

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.uses_transcripts = config.loss_weight > 0
        self.ctc = CTC(config, context)
        self.proj = projection(context.in_dim, context.out_dim, config.num_layers, config.hidden_dim)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with a head of bytes, random weights and a hidden width of 32."""
        chosen: CTCAdapter.Config = cls.Config() if config is None else config
        return replace(tiny_head(chosen), hidden_dim=32 if chosen.num_layers > 1 else None)

    def load_weights(self) -> None:
        """Fill the head from `head_weights`.

        Raises:
            WeightsError: It does not fit.
        """
        self.ctc.load_weights()

    def pretrained_names(self) -> set[str]:
        """Return the names of the head's parameters where `head_weights` names a source."""
        return self.ctc.pretrained_names("ctc.")

    def save_assets(self, folder: Path) -> None:
        """Write the characters that the head knows, where they come from the data."""
        self.ctc.save_assets(folder)

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the classes of the head and the projection."""
        return {CTCHead, MLP}

    def max_tokens(self, num_frames: int) -> int:
        """Return F: every frame may have a label of its own."""
        return num_frames

    def forward(self, features: Padded, transcripts: Sequence[str | None] | None = None) -> AdapterOutput:
        """Adapt (B, F, E) to (B, T, D), T the number of runs, at least 1."""
        frames, real = zero_past_lengths(features), features.mask()
        logits = self.ctc.head(frames)
        losses, counts = self.ctc.loss(logits, features.lengths, transcripts)
        labels = self.ctc.labels(logits)
        blank_id = self.ctc.blank_id if self.config.mode == "non_blank" else None
        groups, lengths = group_runs(labels, real, blank_id)
        tokens = self.proj(average_groups(frames, groups, lengths))
        return AdapterOutput(Padded(tokens, lengths.to(features.lengths.device)), losses, counts)


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


def check_projection(num_layers: int, hidden_dim: int | None) -> None:
    """Check the options of the projection to the LLM's width.

    Raises:
        ValueError: One is out of range, or would not be read.
    """
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1, not {num_layers}")
    if hidden_dim is not None and hidden_dim < 1:
        raise ValueError(f"hidden_dim must be at least 1, not {hidden_dim}")
    if num_layers == 1 and hidden_dim is not None:
        raise ValueError("hidden_dim is read only with num_layers of 2 or more")


def projection(in_dim: int, out_dim: int, num_layers: int, hidden_dim: int | None) -> MLP:
    """Return linear layers with bias from E to D."""
    hidden = [hidden_dim or out_dim] * (num_layers - 1)
    return MLP([in_dim, *hidden, out_dim], nn.GELU, bias=True)
