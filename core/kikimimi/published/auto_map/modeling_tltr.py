"""A speech LLM whose adapter looks along time and along the layers of the audio tower."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kikimimi.published.auto_map.configuration_speech_lm import SpeechModelConfig
from kikimimi.published.auto_map.modeling_speech_lm import BareSpeechModel, BareSpeechModelForCausalLM


class VectorAttention(nn.Module):
    """Self-attention without positions."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Attend within the rows of (rows, length, E)."""
        count, length, _ = vectors.shape
        query, key, value = (
            layer(vectors).view(count, length, self.num_heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class VectorBlock(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn = VectorAttention(dim, num_heads)
        self.attn_ln = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.mlp_ln = nn.LayerNorm(dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Transform (rows, length, E)."""
        vectors = vectors + self.attn(self.attn_ln(vectors))
        out: Tensor = vectors + self.mlp(self.mlp_ln(vectors))
        return out


class TimeAndLayers(nn.Module):
    """The adapter `tltr`.

    Args:
        config: `adapter_config` of the whole.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.downsample, self.num_layers = config["downsample"], config["num_concat_layers"]
        layer_dim = config["in_dim"] // self.num_layers
        dim = config["dim"] or layer_dim
        self.down_layer = (
            None
            if config["dim"] is None
            else nn.Sequential(nn.LayerNorm(layer_dim), nn.Linear(layer_dim, dim))
        )
        self.time_tr = VectorBlock(dim, config["time_heads"])
        self.layer_tr = VectorBlock(dim, config["layer_heads"])
        self.audio_proj = nn.Sequential(
            nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(dim, config["out_dim"])
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Adapt (n, F, layers x E) to (n, T, D)."""
        frames = frames.to(next(self.parameters()).dtype)
        count, length, _ = frames.shape
        tokens = -(-length // self.downsample)
        groups = F.pad(frames, (0, 0, 0, tokens * self.downsample - length))
        groups = groups.view(count, tokens, self.downsample, -1)
        own = torch.arange(tokens * self.downsample, device=frames.device) < length
        means = groups.sum(2) / own.view(tokens, -1).sum(1)[:, None].to(frames.dtype)
        # (n, T, layers x E) -> (n x layers, T, E)
        rows = means.view(count, tokens, self.num_layers, -1).transpose(1, 2).flatten(0, 1)
        if self.down_layer is not None:
            rows = self.down_layer(rows)
        rows = self.time_tr(rows)
        # (n x layers, T, E) -> (n x T, layers, E)
        rows = rows.view(count, self.num_layers, tokens, -1).transpose(1, 2).flatten(0, 1)
        values: Tensor = self.audio_proj(self.layer_tr(rows).mean(1))
        return values.view(count, tokens, -1)


class TLTRSpeechModelConfig(SpeechModelConfig):
    """Settings with adapter `tltr`: a type of their own, as transformers finds models by it."""

    model_type = "kikimimi_tltr"

    def __init__(self, **kwargs: Any) -> None:  # without one, transformers makes a dataclass of it
        super().__init__(**kwargs)


class TLTRSpeechModel(BareSpeechModel):
    """With adapter `tltr`, without a head."""

    config_class = TLTRSpeechModelConfig
    adapter_class = TimeAndLayers


class TLTRSpeechModelForCausalLM(BareSpeechModelForCausalLM):
    """With adapter `tltr`, with a head."""

    config_class = TLTRSpeechModelConfig
    adapter_class = TimeAndLayers
