"""A speech LLM whose adapter pools frames in groups and maps them by a multilayer perceptron."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kikimimi.published.auto_map.configuration_speech_lm import SpeechModelConfig
from kikimimi.published.auto_map.modeling_speech_lm import BareSpeechModel, BareSpeechModelForCausalLM


class GatedSiLU(nn.Module):
    """The first half of the channels times SiLU of the second."""

    def forward(self, x: Tensor) -> Tensor:
        """Return half the channels."""
        values, gate = x.chunk(2, dim=-1)
        return F.silu(gate) * values


class RootMeanSquareNorm(nn.Module):
    """A root mean square norm with a learned scale, in fp32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the dtype and shape of `x`."""
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), 1e-6).to(x.dtype)


_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swiglu": GatedSiLU,
}


class GroupMLP(nn.Module):
    """The adapter `mlp`.

    Args:
        config: `adapter_config` of the whole.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.settings = config
        in_dim = config["in_dim"] * (config["downsample"] if config["pool"] == "stack" else 1)
        out_dim, hidden = config["out_dim"], config["hidden_dim"] or config["out_dim"]
        self.norm: nn.Module | None = None
        if config["norm"] == "rms":
            self.norm = RootMeanSquareNorm(in_dim)
        elif config["norm"] != "none":
            self.norm = nn.LayerNorm(in_dim, elementwise_affine=config["norm"] == "layer")
        gates = 2 if config["activation"] == "swiglu" else 1
        layers: list[nn.Module] = []
        for _ in range(config["num_layers"] - 1):
            layers.append(nn.Linear(in_dim, gates * hidden, bias=config["bias"]))
            activation = _ACTIVATIONS[config["activation"]]()
            inner = config["second_norm"] == "hidden"
            layers.append(nn.Sequential(activation, RootMeanSquareNorm(hidden)) if inner else activation)
            in_dim = hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(in_dim, out_dim, bias=config["bias"]))
        self.output_norm = RootMeanSquareNorm(out_dim) if config["second_norm"] == "output" else None
        self.boundaries = nn.Parameter(torch.zeros(2, out_dim)) if config["boundaries"] else None

    def forward(self, frames: Tensor) -> Tensor:
        """Adapt (n, F, E) to (n, T, D)."""
        frames = frames.to(next(self.parameters()).dtype)
        size, window = self.settings["downsample"], self.settings["window_frames"]
        if window is not None:
            pieces = torch.split(frames, window, dim=1)
            gap = -window % size
            frames = torch.cat([*(F.pad(piece, (0, 0, 0, gap)) for piece in pieces[:-1]), pieces[-1]], dim=1)
        length = frames.shape[1]
        groups = -(-length // size)
        if self.settings["remainder"] == "drop":
            groups = max(1, length // size)
        frames = F.pad(frames, (0, 0, 0, groups * size - length))
        # (n, F, E) -> (n, groups, size, E)
        frames = frames.reshape(len(frames), groups, size, -1)
        if self.settings["pool"] == "stack":
            pooled = frames.flatten(2)
        else:
            real = (torch.arange(groups * size, device=frames.device) < length).view(groups, size).sum(1)
            pooled = frames.sum(2) / real[:, None].to(frames.dtype)
        values: Tensor = self.mlp(pooled if self.norm is None else self.norm(pooled))
        if self.output_norm is not None:
            values = self.output_norm(values)
        if self.boundaries is not None:
            first, last = torch.split(self.boundaries.expand(len(values), 2, -1), 1, dim=1)
            values = torch.cat([first, values, last], dim=1)
        return values


class MLPSpeechModelConfig(SpeechModelConfig):
    """Settings with adapter `mlp`: a type of their own, as transformers finds models by it."""

    model_type = "kikimimi_mlp"

    def __init__(self, **kwargs: Any) -> None:  # without one, transformers makes a dataclass of it
        super().__init__(**kwargs)


class MLPSpeechModel(BareSpeechModel):
    """With adapter `mlp`, without a head."""

    config_class = MLPSpeechModelConfig
    adapter_class = GroupMLP


class MLPSpeechModelForCausalLM(BareSpeechModelForCausalLM):
    """With adapter `mlp`, with a head."""

    config_class = MLPSpeechModelConfig
    adapter_class = GroupMLP
