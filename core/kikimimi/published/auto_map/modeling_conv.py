"""A speech LLM whose adapter shortens frames by strided convolutions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kikimimi.published.auto_map.configuration_speech_lm import SpeechModelConfig
from kikimimi.published.auto_map.modeling_speech_lm import BareSpeechModel, BareSpeechModelForCausalLM


class StridedConv(nn.Module):
    """A convolution over time, an activation and a layer norm."""

    def __init__(
        self, in_dim: int, out_dim: int, kernel_size: int, stride: int, config: dict[str, Any]
    ) -> None:
        super().__init__()
        self.activation, self.fills = config["activation"], config["padding"] == "fill"
        channels = out_dim * (2 if self.activation == "glu" else 1)
        zeros = 0 if self.fills else kernel_size // 2
        self.conv = nn.Conv1d(in_dim, channels, kernel_size, stride, zeros, bias=config["bias"])
        self.norm = nn.LayerNorm(out_dim) if config["norm"] == "each" else None

    def forward(self, frames: Tensor) -> Tensor:
        """Convolve (n, F, E)."""
        values = frames.transpose(1, 2)  # (n, E, F)
        if self.fills:
            (size,), (stride,) = self.conv.kernel_size, self.conv.stride
            last = max(0, -((size - values.shape[-1]) // stride))
            values = F.pad(values, (0, max(0, last * stride + size - values.shape[-1])))
        hidden = self.conv(values)
        if self.activation == "glu":
            hidden = F.glu(hidden, dim=1)
        elif self.activation != "none":
            hidden = F.gelu(hidden) if self.activation == "gelu" else F.relu(hidden)
        hidden = hidden.transpose(1, 2)
        normed: Tensor = hidden if self.norm is None else self.norm(hidden)
        return normed


class ResidualBottleneck(nn.Module):
    """Adds what two linear layers around a narrow one make of a vector."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner_dim, bias=False)
        self.fc2 = nn.Linear(inner_dim, dim, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Transform (..., D)."""
        added: Tensor = self.fc2(F.gelu(self.fc1(vectors)))
        return vectors + added


class StridedConvs(nn.Module):
    """The adapter `conv`.

    Args:
        config: `adapter_config` of the whole.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        out_dim, hidden = config["out_dim"], config["hidden_dim"] or config["out_dim"]
        dims = [config["in_dim"]] + [hidden] * len(config["strides"])
        if not config["linear"]:
            dims[-1] = out_dim
        shapes = zip(pairwise(dims), config["kernel_sizes"], config["strides"], strict=True)
        self.layers = nn.Sequential(
            *(
                StridedConv(before, after, kernel, stride, config)
                for (before, after), kernel, stride in shapes
            )
        )
        self.linear = nn.Linear(hidden, out_dim, bias=config["bias"]) if config["linear"] else None
        inner = config["bottleneck_dim"]
        self.bottleneck = None if inner is None else ResidualBottleneck(out_dim, inner)
        self.norm = nn.LayerNorm(out_dim) if config["norm"] == "last" else None

    def forward(self, frames: Tensor) -> Tensor:
        """Adapt (n, F, E) to (n, T, D)."""
        values: Tensor = self.layers(frames.to(next(self.parameters()).dtype))
        for module in (self.linear, self.bottleneck, self.norm):
            if module is not None:
                values = module(values)
        return values


class ConvSpeechModelConfig(SpeechModelConfig):
    """Settings with adapter `conv`: a type of their own, as transformers finds models by it."""

    model_type = "kikimimi_conv"

    def __init__(self, **kwargs: Any) -> None:  # without one, transformers makes a dataclass of it
        super().__init__(**kwargs)


class ConvSpeechModel(BareSpeechModel):
    """With adapter `conv`, without a head."""

    config_class = ConvSpeechModelConfig
    adapter_class = StridedConvs


class ConvSpeechModelForCausalLM(BareSpeechModelForCausalLM):
    """With adapter `conv`, with a head."""

    config_class = ConvSpeechModelConfig
    adapter_class = StridedConvs
