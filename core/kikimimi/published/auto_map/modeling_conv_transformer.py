"""A speech LLM whose adapter is strided convolutions and transformer layers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kikimimi.published.auto_map.configuration_speech_lm import SpeechModelConfig
from kikimimi.published.auto_map.modeling_conv import StridedConv
from kikimimi.published.auto_map.modeling_speech_lm import BareSpeechModel, BareSpeechModelForCausalLM


class FrameAttention(nn.Module):
    """Self-attention in both directions."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.o_proj = nn.Linear(dim, dim)

    def forward(self, frames: Tensor, rotary: bool) -> Tensor:
        """Attend over (n, T, E)."""
        count, length, _ = frames.shape
        # (n, T, E) -> (n, heads, T, E / heads)
        query, key, value = (
            layer(frames).view(count, length, self.num_heads, -1).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        if rotary:
            query, key = _turned(query), _turned(key)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


def _turned(vectors: Tensor) -> Tensor:
    """Turn (n, heads, T, width) by their positions; halves are pairs, as in Llama."""
    half = vectors.shape[-1] // 2
    steps = torch.arange(half, device=vectors.device, dtype=torch.float32) / half
    positions = torch.arange(vectors.shape[-2], device=vectors.device, dtype=torch.float32)
    angles = positions[:, None] * 10000.0**-steps
    cosines, sines = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    first, second = vectors[..., :half], vectors[..., half:]
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


class FrameMLP(nn.Module):
    """Two linear layers around an activation, or three with a gate."""

    def __init__(self, dim: int, ffn_dim: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.gate_proj = nn.Linear(dim, ffn_dim) if activation == "swiglu" else None
        self.up_proj = nn.Linear(dim, ffn_dim)
        self.down_proj = nn.Linear(ffn_dim, dim)

    def forward(self, frames: Tensor) -> Tensor:
        """Transform (n, T, E)."""
        hidden: Tensor = self.up_proj(frames)
        if self.gate_proj is not None:
            hidden = hidden * F.silu(self.gate_proj(frames))
        else:
            hidden = F.relu(hidden) if self.activation == "relu" else F.gelu(hidden)
        out: Tensor = self.down_proj(hidden)
        return out


class FrameLayer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config["dim"])
        self.attention = FrameAttention(config["dim"], config["num_heads"])
        self.ffn_norm = nn.LayerNorm(config["dim"])
        self.ffn = FrameMLP(config["dim"], config["ffn_dim"], config["activation"])

    def forward(self, frames: Tensor, rotary: bool) -> Tensor:
        """Transform (n, T, E)."""
        frames = frames + self.attention(self.attention_norm(frames), rotary)
        out: Tensor = frames + self.ffn(self.ffn_norm(frames))
        return out


class ConvsAndLayers(nn.Module):
    """The adapter `conv_transformer`.

    Args:
        config: `adapter_config` of the whole.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.position = config["position"]
        dim, strides = config["dim"], config["strides"]
        widths = [config["in_dim"]] + [dim] * (len(strides) - 1)
        options = {"activation": "gelu", "padding": "half", "norm": "none", "bias": True}
        self.convolutions = nn.Sequential(
            *(
                StridedConv(width, dim, config["kernel_size"], stride, options)
                for width, stride in zip(widths, strides, strict=True)
            )
        )
        self.layers = nn.ModuleList(FrameLayer(config) for _ in range(config["num_layers"]))
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, config["out_dim"])

    def forward(self, frames: Tensor) -> Tensor:
        """Adapt (n, F, E) to (n, T, D)."""
        values = self.convolutions(frames.to(next(self.parameters()).dtype))
        if self.position == "sinusoidal":
            length, half = values.shape[1], values.shape[2] // 2
            steps = torch.arange(half, device=values.device, dtype=torch.float32) / (half - 1)
            positions = torch.arange(length, device=values.device, dtype=torch.float32)
            angles = positions[:, None] * 10000.0**-steps
            values = values + torch.cat([angles.sin(), angles.cos()], dim=1).to(values.dtype)
        for layer in self.layers:
            values = layer(values, self.position == "rotary")
        tokens: Tensor = self.linear(self.norm(values))
        return tokens


class ConvTransformerSpeechModelConfig(SpeechModelConfig):
    """Settings with adapter `conv_transformer`: a type of their own, as transformers finds models by it."""

    model_type = "kikimimi_conv_transformer"

    def __init__(self, **kwargs: Any) -> None:  # without one, transformers makes a dataclass of it
        super().__init__(**kwargs)


class ConvTransformerSpeechModel(BareSpeechModel):
    """With adapter `conv_transformer`, without a head."""

    config_class = ConvTransformerSpeechModelConfig
    adapter_class = ConvsAndLayers


class ConvTransformerSpeechModelForCausalLM(BareSpeechModelForCausalLM):
    """With adapter `conv_transformer`, with a head."""

    config_class = ConvTransformerSpeechModelConfig
    adapter_class = ConvsAndLayers
