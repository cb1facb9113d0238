"""A speech LLM whose adapter adds frames up by learned weights until they are one token's worth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kikimimi.published.auto_map.configuration_speech_lm import SpeechModelConfig
from kikimimi.published.auto_map.modeling_heard import (
    HeardSpeechModel,
    HeardSpeechModelForCausalLM,
    text_projection,
)


class FrameShares(nn.Module):
    """Convolution, ReLU, Linear: what becomes each frame's weight."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2)
        self.linear = nn.Linear(dim, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Score (n, F, E) as (n, F)."""
        scores: Tensor = self.linear(self.conv(frames.transpose(1, 2)).relu().transpose(1, 2))[..., 0]
        return scores


class IntegrateAndFire(nn.Module):
    """The adapter `cif`.

    Args:
        config: `adapter_config` of the whole.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.tail_threshold = config["tail_threshold"]
        self.weights = FrameShares(config["in_dim"], config["kernel_size"])
        self.proj = text_projection(config, config["in_dim"])

    def forward(self, frames: Tensor) -> list[Tensor]:
        """Adapt (n, F, E) to (T, D) for each clip."""
        frames = frames.to(self.weights.linear.weight.dtype)
        weights = self.weights(frames).double().sigmoid()
        return [self.proj(self._integrate(*clip)) for clip in zip(frames, weights, strict=True)]

    def _integrate(self, frames: Tensor, weights: Tensor) -> Tensor:
        """Add (F, E) frames up by (F,) weights in fp64 to (T, E): a token for each whole number passed."""
        total = float(weights.detach().sum())
        whole = int(total)
        fires = whole + int(total - whole >= self.tail_threshold)
        num_tokens = min(max(1, fires), len(frames))
        if total < 1:  # a clip that is less than one token becomes one
            weights = weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
        dtype = torch.promote_types(frames.dtype, torch.float32)
        ends = weights.cumsum(0)
        token = torch.arange(num_tokens, dtype=ends.dtype, device=ends.device)[:, None]
        before = ((ends - weights) - token).to(dtype).clamp(0, 1)
        shares = (ends - token).to(dtype).clamp(0, 1) - before  # (T, F)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
        return shares.to(frames.dtype) @ frames


class CIFSpeechModelConfig(SpeechModelConfig):
    """Settings with adapter `cif`: a type of their own, as transformers finds models by it."""

    model_type = "kikimimi_cif"

    def __init__(self, **kwargs: Any) -> None:  # without one, transformers makes a dataclass of it
        super().__init__(**kwargs)


class CIFSpeechModel(HeardSpeechModel):
    """With adapter `cif`, without a head."""

    config_class = CIFSpeechModelConfig
    adapter_class = IntegrateAndFire


class CIFSpeechModelForCausalLM(HeardSpeechModelForCausalLM):
    """With adapter `cif`, with a head."""

    config_class = CIFSpeechModelConfig
    adapter_class = IntegrateAndFire
