"""Frames are added up by learned weights until they are one token's worth: integrate and fire."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from kikimimi import (
    Adapter,
    AdapterContext,
    AdapterOutput,
    CharacterVocabulary,
    ComponentConfig,
    LayerCount,
    NonNegativeFloat,
    OddInt,
    Padded,
    PositiveInt,
    Units,
    Vocabulary,
)
from kikimimi_adapters.ctc_head import build_vocabulary
from kikimimi_adapters.frame_groups import zero_past_lengths
from kikimimi_adapters.mlp import check_projection, projection


class FrameWeights(nn.Module):
    """Convolution, ReLU, Linear: what becomes each frame's weight.

    The authors' code (MingLunHan/CIF-PyTorch) has a dropout in place of the ReLU after its convolution.
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2)
        self.linear = nn.Linear(dim, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Score (B, F, E) frames, zero past the lengths, as (B, F)."""
        hidden = self.conv(frames.transpose(1, 2)).relu().transpose(1, 2)
        out: Tensor = self.linear(hidden)[..., 0]
        return out


class CIFAdapter(Adapter):
    """Continuous integrate-and-fire: about one token per token of the transcript, then a projection.

    Dong and Xu 2020 (arXiv 1905.11235); before an LLM, Wav2Prompt (Deng et al. 2024, arXiv 2406.00522). Each
    frame has a weight between 0 and 1. Weights are added up from the left, and each time the sum passes a
    whole number, a token fires: the sum of the frames since the last one, by their weights, where the frame
    at which it fires is divided between two tokens. The rest at the end fires where it is `tail_threshold` or
    more (the authors' code: more than that), and is then scaled to the weight of a whole token, as is a clip
    that is less than one token, which always fires.

    In training, where the transcript is known, the weights of a clip are scaled so that it has as many tokens
    as the transcript, and the quantity loss |sum of the unscaled weights - tokens of the transcript| teaches
    them to do so unscaled. Clips whose transcript has more tokens than the clip has frames are not scaled,
    have no such loss, and are counted; those of an empty transcript have the loss and are not scaled. In eval
    mode nothing is scaled.

    The weights and their sums are computed in float64, whatever the frames are: a long clip's sum would leave
    the weights few digits in float32. The tokens are added up in the frames' own type.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `cif` adapter."""

        vocabulary: Literal["llm", "characters", "bytes"] = "llm"
        """What the tokens of a transcript are: the LLM's, its characters, or its bytes in UTF-8."""
        loss_weight: NonNegativeFloat = 1.0
        """What the quantity loss is multiplied by: the mean over the clips [tokens]. 0 is no loss."""
        kernel_size: OddInt = 3
        """Width of the convolution that the weights come from [frames]."""
        tail_threshold: Annotated[float, Gt(0), Le(1)] = 0.5
        """Least rest at the end of a clip that becomes a token [tokens]."""
        num_layers: LayerCount = 1
        """Linear layers of the projection, with GELU between them."""
        hidden_dim: PositiveInt | None = None
        """Width between the layers; null is the LLM's width D. Refused with one layer."""

        def __post_init__(self) -> None:
            check_projection(self.num_layers, self.hidden_dim)

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.uses_transcripts = True
        # Characters are only counted, for which it does not matter which of them are known.
        characters = config.vocabulary == "characters"
        self.vocabulary: Vocabulary = (
            CharacterVocabulary(()) if characters else build_vocabulary(config.vocabulary, context)
        )
        self.weights = FrameWeights(context.in_dim, config.kernel_size)
        self.proj = projection(context.in_dim, context.out_dim, config.num_layers, config.hidden_dim)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with tokens of bytes and a hidden width of 32."""
        chosen: CIFAdapter.Config = cls.Config() if config is None else config
        return replace(chosen, vocabulary="bytes", hidden_dim=32 if chosen.num_layers > 1 else None)

    def max_tokens(self, num_frames: int) -> int:
        """Return F: no frame weighs more than a token, and a clip is scaled to F tokens at most."""
        return num_frames

    def forward(self, features: Padded, transcripts: Sequence[str | None] | None = None) -> AdapterOutput:
        """Adapt (B, F, E) to (B, T, D), T at least 1."""
        frames, real = zero_past_lengths(features), features.mask()
        weights = self.weights(frames).double().sigmoid().masked_fill(~real, 0.0)
        total = weights.sum(1)
        told = transcripts or [None] * len(features.lengths)
        numbers, counts = self._count(told, features.lengths.tolist())
        num_tokens = torch.tensor(numbers, dtype=torch.int64, device=total.device)
        losses = self._loss(total, num_tokens, told=transcripts is not None)
        lengths = self._fired(total.detach(), features.lengths.to(total.device))
        if frames.is_meta:  # content is unknown: at most, every frame fires
            lengths = features.lengths
        # A clip that is less than one token becomes one.
        goal = torch.where(total < 1, torch.ones_like(total), total)
        if self.training:
            scaled = num_tokens > 0
            goal = torch.where(scaled, num_tokens.to(goal), goal)
            lengths = lengths if frames.is_meta else torch.where(scaled, num_tokens, lengths)
        weights = weights * (goal / total.clamp(min=torch.finfo(total.dtype).tiny))[:, None]
        tokens = self.proj(integrate(frames, weights, int(lengths.max())))
        counts = counts if transcripts is not None else {}
        return AdapterOutput(Padded(tokens, lengths.to(features.lengths.device)), losses, counts)

    def units(self, num_frames: Sequence[int], transcripts: Sequence[str | None]) -> Units:
        """Return how many clips have a transcript that fits."""
        numbers, _ = self._count(transcripts, num_frames)
        return Units("clips", sum(number >= 0 for number in numbers))

    def _count(
        self, transcripts: Sequence[str | None], lengths: Sequence[int]
    ) -> tuple[list[int], dict[str, int]]:
        """Return (B) tokens of each transcript, -1 where not to be used, and why how many are not."""
        numbers = []
        counts = {"cif_without_transcript": 0, "cif_too_long": 0}
        for transcript, length in zip(transcripts, lengths, strict=True):
            number = -1 if transcript is None else len(self.vocabulary.encode(transcript))
            if number < 0:
                counts["cif_without_transcript"] += 1
            elif number > length:
                counts["cif_too_long"] += 1
                number = -1
            numbers.append(number)
        return numbers, counts

    def _loss(self, total: Tensor, num_tokens: Tensor, *, told: bool) -> dict[str, Tensor]:
        """Return the quantity loss: zero where no clip has one, so that every rank has gradients."""
        if not told or self.config.loss_weight == 0:
            return {}
        known = num_tokens >= 0
        errors = (total - num_tokens).abs().masked_fill(~known, 0.0)
        mean = errors.sum() / known.sum().clamp(min=1)
        return {"quantity": self.config.loss_weight * mean.float()}

    def _fired(self, total: Tensor, lengths: Tensor) -> Tensor:
        """Return (B,) how often clips fire whose weights add up to `total`: 1 to F."""
        whole = total.floor()
        fired = whole.long() + (total - whole >= self.config.tail_threshold)
        # Not above F: weights can round up to 1.
        return fired.clamp(min=1).minimum(lengths)


def integrate(frames: Tensor, weights: Tensor, num_tokens: int) -> Tensor:
    """Add up frames by their weights, one token for each whole number that the weights' sum passes.

    A token that gets less than a whole weight, the last, is scaled to it.

    Args:
        frames: (B, F, E).
        weights: (B, F) float64, not negative, zero where frames are not real.
        num_tokens: How many tokens T to return.

    Returns:
        (B, T, E).
    """
    dtype = torch.promote_types(frames.dtype, torch.float32)
    ends = weights.cumsum(1)
    # How much of token k (B, T, F) is there when a frame begins and when it has ended; only near the token is
    # this not 0 or 1, so that it needs no float64.
    token = torch.arange(num_tokens, dtype=ends.dtype, device=ends.device)[:, None]
    before = ((ends - weights)[:, None] - token).to(dtype).clamp(0, 1)
    after = (ends[:, None] - token).to(dtype).clamp(0, 1)
    shares = after - before
    shares = shares / shares.sum(2, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
    return shares.to(frames.dtype) @ frames
