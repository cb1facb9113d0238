"""Frames are shortened by strided convolutions, and then look at each other in transformer layers."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kikimimi import (
    Adapter,
    AdapterContext,
    AdapterOutput,
    ComponentConfig,
    LayerCount,
    Padded,
    PositiveInt,
    Probability,
)
from kikimimi_adapters.attention import attend
from kikimimi_adapters.conv import ConvLayer, ConvStack, OfEach, check_convolutions

_BASE = 10000.0
"""Wavelengths of the positions go from 2 pi up to 2 pi times this [positions]."""


class Attention(nn.Module):
    """Self-attention within each clip, in both directions; names of the linear layers as in Llama."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.o_proj = nn.Linear(dim, dim)

    def forward(self, frames: Tensor, mask: Tensor, *, rotary: bool) -> Tensor:
        """Attend: (B, T, E) frames, of which (B, T) are real."""
        mixed = attend(
            self.q_proj(frames),
            self.k_proj(frames),
            self.v_proj(frames),
            mask,
            num_heads=self.num_heads,
            dropout=self.dropout if self.training else 0.0,
            turn=rotate if rotary else None,
        )
        out: Tensor = self.o_proj(mixed)
        return out


class FeedForward(nn.Module):
    """Two linear layers around an activation, or Llama's three: SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, dim: int, ffn_dim: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.gate_proj = nn.Linear(dim, ffn_dim) if activation == "swiglu" else None
        self.up_proj = nn.Linear(dim, ffn_dim)
        self.down_proj = nn.Linear(ffn_dim, dim)

    def forward(self, frames: Tensor) -> Tensor:
        """Transform (B, T, E) frames one by one."""
        hidden: Tensor = self.up_proj(frames)
        if self.gate_proj is not None:
            hidden = hidden * nn.functional.silu(self.gate_proj(frames))
        else:
            hidden = nn.functional.relu(hidden) if self.activation == "relu" else nn.functional.gelu(hidden)
        out: Tensor = self.down_proj(hidden)
        return out


class TransformerLayer(nn.Module):
    """Pre-norm attention and feed-forward network."""

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, dropout)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim, activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Tensor, mask: Tensor, *, rotary: bool) -> Tensor:
        """Transform (B, T, E) frames, of which (B, T) are real."""
        frames = frames + self.dropout(self.attention(self.attention_norm(frames), mask, rotary=rotary))
        out: Tensor = frames + self.dropout(self.ffn(self.ffn_norm(frames)))
        return out


class ConvTransformerAdapter(Adapter):
    """Strided convolutions with GELU, transformer layers, a layer norm, and a linear layer to width D.

    With it, in the options' words (what is not named is the default):

    - The speech adapter of Llama 3 (Grattafiori et al. 2024, arXiv 2407.21783, section 8: a convolution of
      kernel 3 and stride 2, one rotary transformer layer of width 3072 and inner width 4096, a linear layer;
      "about 100 M" parameters, with an encoder 1536 wide): the defaults. The heads, the kind of feed-forward
      network and the norms are not published; they are Llama's, but for layer norms and biases.
    - SLM (Wang et al. 2023, arXiv 2310.00230: two transformer layers, a fourth of the frames, 156 M
      parameters; the widths are not published): `strides: [2, 2], num_layers: 2, position: none,
      activation: gelu, dim: 2240, num_heads: 35, ffn_dim: 8960` has 155 M. There, frames are dropped
      instead of convolved.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `conv_transformer` adapter."""

        kernel_size: PositiveInt = 3
        """Frames that a position of each convolution sees, half of them on either side of its centre."""
        strides: OfEach = field(default_factory=lambda: [2])
        """Frames from one position of each convolution to the next; their product is the shortening."""
        dim: PositiveInt = 3072
        """Width of the transformer layers."""
        num_layers: LayerCount = 1
        """Transformer layers."""
        num_heads: PositiveInt = 24
        """Attention heads; they divide `dim`."""
        ffn_dim: PositiveInt = 4096
        """Inner width of the feed-forward network."""
        activation: Literal["swiglu", "gelu", "relu"] = "swiglu"
        """Activation of the feed-forward network; `swiglu` has a third linear layer, a gate."""
        position: Literal["rotary", "sinusoidal", "none"] = "rotary"
        """How the layers know the order: keys and queries are turned, sines are added, or they do not."""
        dropout: Probability = 0.0
        """Probability of dropping an attention weight, or a value of a layer's two outputs, in training."""

        def __post_init__(self) -> None:
            check_convolutions([self.kernel_size] * len(self.strides), self.strides, "half")
            if self.dim % self.num_heads:
                raise ValueError(f"num_heads ({self.num_heads}) must divide dim ({self.dim})")
            if self.position == "rotary" and self.dim // self.num_heads % 2:
                raise ValueError(
                    f"dim / num_heads must be even with position: rotary, not {self.dim // self.num_heads}"
                )
            if self.position == "sinusoidal" and (self.dim % 2 or self.dim < 4):
                raise ValueError(f"dim must be even and at least 4 with position: sinusoidal, not {self.dim}")

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        widths = [context.in_dim] + [config.dim] * (len(config.strides) - 1)
        self.convolutions = ConvStack(
            *(
                ConvLayer(width, config.dim, kernel_size=config.kernel_size, stride=stride, activation="gelu")
                for width, stride in zip(widths, config.strides, strict=True)
            )
        )
        self.layers = nn.ModuleList(
            TransformerLayer(config.dim, config.num_heads, config.ffn_dim, config.activation, config.dropout)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.linear = nn.Linear(config.dim, context.out_dim)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with layers 32 wide, at most two of them."""
        chosen: ConvTransformerAdapter.Config = cls.Config() if config is None else config
        return replace(
            chosen,
            dim=32,
            num_layers=min(2, chosen.num_layers),
            num_heads=min(2, chosen.num_heads),
            ffn_dim=64,
        )

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the class of a transformer layer, and that of a convolution."""
        return {TransformerLayer, ConvLayer}

    def max_tokens(self, num_frames: int) -> int:
        """Return the positions of the last convolution, which is exact."""
        return self.convolutions.num_positions(num_frames)

    def forward(self, features: Padded) -> AdapterOutput:
        """Adapt (B, F, E) to (B, `max_tokens(F)`, D)."""
        hidden: Padded = self.convolutions(features)
        values, mask = hidden.values, hidden.mask()
        if self.config.position == "sinusoidal":
            values = values + sinusoids(values.shape[1], values.shape[2], values.device).to(values.dtype)
        for block in self.layers:
            values = block(values, mask, rotary=self.config.position == "rotary")
        return AdapterOutput(Padded(self.linear(self.norm(values)), hidden.lengths))


def rotate(vectors: Tensor) -> Tensor:
    """Turn (B, heads, T, width) queries or keys by their positions (Su et al. 2021, arXiv 2104.09864).

    Value i of the first half and value i of the second are a pair, as in transformers' Llama.
    """
    half = vectors.shape[-1] // 2
    steps = torch.arange(half, device=vectors.device, dtype=torch.float32) / half
    # In float32, whatever the weights are: half precision cannot count positions past 256.
    positions = torch.arange(vectors.shape[-2], device=vectors.device, dtype=torch.float32)
    angles = positions[:, None] * _BASE**-steps
    cosines, sines = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    first, second = vectors[..., :half], vectors[..., half:]
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


def sinusoids(length: int, dim: int, device: torch.device) -> Tensor:
    """Return (length, dim) float32 positions (Vaswani et al. 2017, section 3.5): sines, then cosines."""
    steps = torch.arange(dim // 2, device=device, dtype=torch.float32) / (dim // 2 - 1)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * _BASE**-steps
    return torch.cat([angles.sin(), angles.cos()], dim=1)
