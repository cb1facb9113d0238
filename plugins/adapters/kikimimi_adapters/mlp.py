"""Frames are pooled in groups and mapped to the LLM's width by a multilayer perceptron."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

from kikimimi import Adapter, AdapterContext, AdapterOutput, ComponentConfig, Padded

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class MLP(nn.Sequential):
    """Linear layers with an activation between them."""

    def __init__(self, dims: list[int], activation: type[nn.Module], *, bias: bool) -> None:
        layers: list[nn.Module] = [nn.Linear(dims[0], dims[1], bias=bias)]
        for in_dim, out_dim in pairwise(dims[1:]):
            layers += [activation(), nn.Linear(in_dim, out_dim, bias=bias)]
        super().__init__(*layers)


class MLPAdapter(Adapter):
    """Pools each `downsample` frames into one audio token, by stacking or averaging, then an MLP.

    The projector of LLaMA-Omni (Fang et al. 2024, arXiv 2409.06666: `downsample: 5, activation: relu,
    hidden_dim: 2048, bias: true`) and of Voxtral (Liu et al. 2025, arXiv 2507.13264: the defaults). Unlike
    there, frames that do not fill the last group are not dropped: the mean is over the real ones, and the
    stack is filled up with zeros.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `mlp` adapter."""

        downsample: int = 4
        """Encoder frames per audio token."""
        pool: Literal["stack", "mean"] = "stack"
        """How a group of frames becomes one vector: side by side (`downsample` x E wide), or averaged (E)."""
        num_layers: int = 2
        """Linear layers."""
        hidden_dim: int | None = None
        """Width between the layers; None is the LLM's width D. Refused with one layer."""
        activation: Literal["gelu", "relu", "silu"] = "gelu"
        """Activation between the layers. Only the default is taken with one layer."""
        bias: bool = False
        """Whether the linear layers have a bias."""

        def __post_init__(self) -> None:
            if self.downsample < 1:
                raise ValueError(f"downsample must be at least 1, not {self.downsample}")
            if self.pool not in ("stack", "mean"):
                raise ValueError(f"pool must be stack or mean, not {self.pool!r}")
            if self.num_layers < 1:
                raise ValueError(f"num_layers must be at least 1, not {self.num_layers}")
            if self.hidden_dim is not None and self.hidden_dim < 1:
                raise ValueError(f"hidden_dim must be at least 1, not {self.hidden_dim}")
            if self.activation not in _ACTIVATIONS:
                raise ValueError(f"activation must be gelu, relu or silu, not {self.activation!r}")
            if self.num_layers == 1 and self.hidden_dim is not None:
                raise ValueError("hidden_dim is read only with num_layers of 2 or more")
            if self.num_layers == 1 and self.activation != "gelu":
                raise ValueError("activation is read only with num_layers of 2 or more")

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        in_dim = context.in_dim * (config.downsample if config.pool == "stack" else 1)
        hidden = [config.hidden_dim or context.out_dim] * (config.num_layers - 1)
        self.mlp = MLP([in_dim, *hidden, context.out_dim], _ACTIVATIONS[config.activation], bias=config.bias)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with a hidden width of 32."""
        chosen: MLPAdapter.Config = cls.Config() if config is None else config
        return replace(chosen, hidden_dim=32 if chosen.num_layers > 1 else None)

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the class of the whole MLP."""
        return {MLP}

    def max_tokens(self, num_frames: int) -> int:
        """Return ceil(F / downsample), which is exact."""
        return -(-num_frames // self.config.downsample)

    def forward(self, features: Padded) -> AdapterOutput:
        """Adapt (B, F, E) to (B, ceil(F / downsample), D)."""
        size = self.config.downsample
        lengths = -(-features.lengths // size)
        groups, real = self._groups(features)
        if self.config.pool == "stack":
            # (B, T, downsample, E) -> (B, T, downsample x E)
            pooled = groups.flatten(2)
        else:
            # The last group of a clip may be short, and those past its end are empty.
            pooled = groups.sum(2) / real.sum(2).clamp(min=1)[..., None].to(groups.dtype)
        return AdapterOutput(Padded(self.mlp(pooled), lengths))

    def _groups(self, features: Padded) -> tuple[Tensor, Tensor]:
        """Return (B, T, downsample, E) frames, zero past the lengths, and which of them are real."""
        batch, longest, dim = features.values.shape
        tokens = self.max_tokens(longest)
        missing = tokens * self.config.downsample - longest
        real = features.mask()
        # Filled, not multiplied: what lies past a length may be NaN.
        values = features.values.masked_fill(~real[..., None], 0.0)
        values = nn.functional.pad(values, (0, 0, 0, missing))
        real = nn.functional.pad(real, (0, missing))
        return values.view(batch, tokens, -1, dim), real.view(batch, tokens, -1)
