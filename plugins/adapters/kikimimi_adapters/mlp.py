"""Frames are pooled in groups and mapped to the LLM's width by a multilayer perceptron."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn

from kikimimi import (
    Adapter,
    AdapterContext,
    AdapterOutput,
    ComponentConfig,
    LayerCount,
    Padded,
    PositiveInt,
    WeightsError,
    find_weights,
    load_state,
    published_part,
)
from kikimimi_adapters.frame_groups import FrameGroups

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}
_PUBLISHED = {
    # Qwen2-Audio; Voxtral and Audio Flamingo 3; LlamaForSpeechLM; thinkers of Qwen-Omni; Phi-4-Multimodal
    **{"linear": "mlp.0", "linear_1": "mlp.0", "linear_2": "mlp.2", "linear1": "mlp.0", "linear2": "mlp.2"},
    **{"proj": "mlp.0", "proj1": "mlp.0", "proj2": "mlp.2"},
    **{"up_proj_for_speech": "mlp.0", "down_proj_for_speech": "mlp.2"},
}
"""Our name of what published projectors call their layers."""
_BOUNDARY_STD = 0.02
"""Spread of new boundary vectors: that of the embeddings of most LLMs."""


class MLP(nn.Sequential):
    """Linear layers with an activation between them."""

    def __init__(self, dims: list[int], activation: type[nn.Module], *, bias: bool) -> None:
        layers: list[nn.Module] = [nn.Linear(dims[0], dims[1], bias=bias)]
        for in_dim, out_dim in pairwise(dims[1:]):
            layers += [activation(), nn.Linear(in_dim, out_dim, bias=bias)]
        super().__init__(*layers)


def check_projection(num_layers: int, hidden_dim: int | None) -> None:
    """Raise a ValueError if an option of the projection to the LLM's width would not be read."""
    if num_layers == 1 and hidden_dim is not None:
        raise ValueError("hidden_dim is read only with num_layers of 2 or more")


def projection(
    in_dim: int,
    out_dim: int,
    num_layers: int,
    hidden_dim: int | None,
    activation: type[nn.Module] = nn.GELU,
    *,
    bias: bool = True,
) -> MLP:
    """Return linear layers to the LLM's width, `hidden_dim` wide (None: that width too) between them."""
    return MLP([in_dim, *[hidden_dim or out_dim] * (num_layers - 1), out_dim], activation, bias=bias)


class MLPAdapter(Adapter):
    """Pools each `downsample` frames into one audio token, by stacking or averaging, then an MLP.

    With it, in the options' words (what is not named is the default):

    - Voxtral (Liu et al. 2025, arXiv 2507.13264): the defaults.
    - LLaMA-Omni (Fang et al. 2024, arXiv 2409.06666): `downsample: 5, remainder: drop, activation: relu,
      hidden_dim: 2048, bias: true`. SLAM-LLM (Ma et al. 2024, arXiv 2402.08846): the same.
    - Phi-4-Multimodal (arXiv 2503.01743): `downsample: 1, bias: true`.
    - Qwen-Audio (Chu et al. 2023, arXiv 2311.07919): `downsample: 1, num_layers: 1, bias: true,
      boundaries: true`, after encoder `qwen2_audio`, which averages frames in pairs before its last norm.
      Qwen2-Audio (arXiv 2407.10759): the same without `boundaries`.
    - AudioChatLlama (Fathullah et al. 2023, arXiv 2311.06753): `downsample: 1, num_layers: 1, bias: true`.
    - LTU-AS without its transformer (Gong et al. 2023, arXiv 2309.14405): `downsample: 20, pool: mean,
      norm: plain, num_layers: 1, bias: true`.

    A mean is over the real frames of a group, and a stack that is not full is filled up with zeros.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `mlp` adapter."""

        weights: str = "random"
        """A published speech LLM whose projector this is (Voxtral, Qwen2-Audio, Audio Flamingo 3, ...): a Hub
        id, a folder, `package:...`; or `random`."""
        downsample: PositiveInt = 4
        """Encoder frames per audio token."""
        pool: Literal["stack", "mean"] = "stack"
        """How a group of frames becomes one vector: side by side (`downsample` x E wide), or averaged (E)."""
        remainder: Literal["pad", "drop"] = "pad"
        """What becomes of frames that do not fill the last group: a token of their own, or nothing (they are
        counted in the metrics). A clip without one full group has one token either way."""
        norm: Literal["none", "layer", "plain"] = "none"
        """Layer norm of the pooled vectors: none, with a learned scale and shift, or without them."""
        num_layers: LayerCount = 2
        """Linear layers."""
        hidden_dim: PositiveInt | None = None
        """Width between the layers; None is the LLM's width D. Refused with one layer."""
        activation: Literal["gelu", "relu", "silu"] = "gelu"
        """Activation between the layers. Only the default is taken with one layer."""
        bias: bool = False
        """Whether the linear layers have a bias."""
        boundaries: bool = False
        """Whether a learned vector stands before a clip's audio tokens, and another one after them."""

        def __post_init__(self) -> None:
            if self.remainder == "drop" and self.downsample == 1:
                raise ValueError("remainder is read only with a downsample of 2 or more")
            check_projection(self.num_layers, self.hidden_dim)
            if self.num_layers == 1 and self.activation != "gelu":
                raise ValueError("activation is read only with num_layers of 2 or more")

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        in_dim = context.in_dim * (config.downsample if config.pool == "stack" else 1)
        self.norm = (
            None if config.norm == "none" else nn.LayerNorm(in_dim, elementwise_affine=config.norm == "layer")
        )
        self.mlp = projection(
            in_dim,
            context.out_dim,
            config.num_layers,
            config.hidden_dim,
            _ACTIVATIONS[config.activation],
            bias=config.bias,
        )
        self.boundaries = (
            nn.Parameter(torch.randn(2, context.out_dim) * _BOUNDARY_STD) if config.boundaries else None
        )

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with a hidden width of 32."""
        chosen: MLPAdapter.Config = cls.Config() if config is None else config
        return replace(chosen, weights="random", hidden_dim=32 if chosen.num_layers > 1 else None)

    def load_weights(self) -> None:
        """Fill from the projector of a published speech LLM.

        Raises:
            WeightsError: It is of another shape, or the files are those of another kind of model.
        """
        files = find_weights(self.config.weights)
        if files is None:
            return
        part = published_part(files, "adapter")
        if part is None:
            raise WeightsError(
                f"{files.source}: is no published speech LLM whose projector is known. Leave out "
                "adapter.weights, and the adapter starts from random weights"
            )
        named = {}
        for name, value in part.state_dict().items():
            module, _, kind = name.rpartition(".")
            named[f"{_PUBLISHED.get(module, module)}.{kind}"] = value
        load_state(self, named, source=files.source)

    def max_tokens(self, num_frames: int) -> int:
        """Return the groups, ceil(F / downsample) or floor, at least 1, and 2 boundaries; it is exact."""
        return self._num_groups(num_frames) + (2 if self.config.boundaries else 0)

    def forward(self, features: Padded) -> AdapterOutput:
        """Adapt (B, F, E) to (B, T, D) with T = `max_tokens(F)`."""
        size = self.config.downsample
        counts: dict[str, int] = {}
        if self.config.remainder == "drop":
            lengths = (features.lengths // size).clamp(min=1)
            counts["dropped_frames"] = int((features.lengths - lengths * size).clamp(min=0).sum())
        else:
            lengths = -(-features.lengths // size)
        groups = FrameGroups.split(features, size, self._num_groups(features.values.shape[1]))
        # (B, T, downsample, E) -> (B, T, downsample x E) or (B, T, E)
        pooled = groups.frames.flatten(2) if self.config.pool == "stack" else groups.mean()
        if self.norm is not None:
            pooled = self.norm(pooled)
        tokens = Padded(self.mlp(pooled), lengths)
        return AdapterOutput(tokens if self.boundaries is None else self._bounded(tokens), counts=counts)

    def _num_groups(self, num_frames: int) -> int:
        size = self.config.downsample
        return max(1, num_frames // size) if self.config.remainder == "drop" else -(-num_frames // size)

    def _bounded(self, tokens: Padded) -> Padded:
        """Return (B, T + 2, D) with the first boundary before each clip's tokens, the second behind them."""
        assert self.boundaries is not None
        first, last = self.boundaries.to(tokens.values.dtype)
        # (B, T, D) -> (B, T + 2, D)
        values = nn.functional.pad(tokens.values, (0, 0, 1, 1))
        positions = torch.arange(values.shape[1], device=values.device)
        ends = tokens.lengths.to(values.device)[:, None] + 1
        values = torch.where((positions == 0)[:, None], first, values)
        values = torch.where((positions == ends)[..., None], last, values)
        return Padded(values, tokens.lengths + 2)
