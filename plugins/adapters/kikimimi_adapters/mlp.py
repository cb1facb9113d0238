"""Frames are pooled in groups and mapped to the LLM's width by a multilayer perceptron."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
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
    PositiveFloat,
    PositiveInt,
    WeightsError,
    find_weights,
    load_state,
    published_part,
)
from kikimimi_adapters.frame_groups import FrameGroups, zero_past_lengths

_PUBLISHED = {
    # Qwen2-Audio; Voxtral and Audio Flamingo 3; LlamaForSpeechLM; thinkers of Qwen-Omni; Phi-4-Multimodal
    **{"linear": "mlp.0", "linear_1": "mlp.0", "linear_2": "mlp.2", "linear1": "mlp.0", "linear2": "mlp.2"},
    **{"proj": "mlp.0", "proj1": "mlp.0", "proj2": "mlp.2"},
    **{"up_proj_for_speech": "mlp.0", "down_proj_for_speech": "mlp.2"},
    **{"ln_pre": "norm", "ln_mid": "mlp.1.1", "ln_post": "output_norm"},  # Ultravox
}
"""Our name of what published projectors call their layers."""
_BOUNDARY_STD = 0.02
"""Spread of new boundary vectors: that of the embeddings of most LLMs."""


class SwiGLU(nn.Module):
    """A gated activation, (..., 2H) to (..., H): the first half of the channels times SiLU of the second.

    Ultravox gates with the second half; LLMs that join `gate_proj` and `up_proj` gate with the first.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., H)."""
        values, gate = x.chunk(2, dim=-1)
        return nn.functional.silu(gate) * values


class RMSNorm(nn.RMSNorm):
    """A root mean square norm with a learned scale, computed in fp32 as LLMs do; epsilon is 1e-6."""

    def __init__(self, dim: int, init: float = 1.0) -> None:
        super().__init__(dim, eps=1e-6)
        nn.init.constant_(self.weight, init)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., dim) in the dtype of `x`."""
        scale = self.weight.float()
        return nn.functional.rms_norm(x.float(), self.normalized_shape, scale, self.eps).to(x.dtype)


_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swiglu": SwiGLU,
}


class MLP(nn.Sequential):
    """Linear layers, each to a width of `dims`, with an activation between them.

    A layer in front of a gated activation is twice as wide, as the gate halves it.

    Args:
        dims: The width of what comes in, and what each layer gives.
        activation: The class of the activation.
        bias: Whether the layers have a bias.
        norm: The class of a norm behind each activation, of the width there; None: no norm.
    """

    def __init__(
        self,
        dims: list[int],
        activation: type[nn.Module],
        *,
        bias: bool,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        gates = 2 if activation is SwiGLU else 1
        layers: list[nn.Module] = []
        for in_dim, out_dim in pairwise(dims[:-1]):
            layers.append(nn.Linear(in_dim, gates * out_dim, bias=bias))
            # A norm shares the activation's place, so that the layers keep theirs.
            layers.append(activation() if norm is None else nn.Sequential(activation(), norm(out_dim)))
        super().__init__(*layers, nn.Linear(dims[-2], dims[-1], bias=bias))


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
    norm: Callable[[int], nn.Module] | None = None,
) -> MLP:
    """Return linear layers to the LLM's width, `hidden_dim` wide (None: that width too) between them."""
    dims = [in_dim, *[hidden_dim or out_dim] * (num_layers - 1), out_dim]
    return MLP(dims, activation, bias=bias, norm=norm)


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
    - Ultravox 0.5 and later (fixie-ai/ultravox, `UltravoxProjector`): `downsample: 8, norm: rms, second_norm:
      hidden, norm_init: 0.4, activation: swiglu, hidden_dim: 2048`: half of its `hidden_size`, which counts
      the gates. Up to 0.4.1: `second_norm: output`. With clips over 30 s: `window_frames: 1500`.
    - LTU-AS without its transformer (Gong et al. 2023, arXiv 2309.14405): `downsample: 20, pool: mean,
      norm: plain, num_layers: 1, bias: true`.

    A mean is over the real frames of a group, and a stack that is not full is filled up with zeros: as in
    Ultravox for a clip alone; what it stacks there in a batch is what its encoder gave for the padding.
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
        window_frames: PositiveInt | None = None
        """Frames after which a group begins anew and the one before is filled up with zeros, where the
        encoder cuts long clips into windows (1500 for Ultravox); None is nowhere. Refused where it changes
        nothing, as `downsample` divides it, and with `pool: mean` or `remainder: drop`."""
        norm: Literal["none", "layer", "plain", "rms"] = "none"
        """Norm of the pooled vectors: none, layer norm with a learned scale and shift, layer norm without
        them, or root mean square norm (epsilon 1e-6) with a learned scale."""
        second_norm: Literal["none", "hidden", "output"] = "none"
        """Another root mean square norm with a learned scale: none, behind each activation, or of the audio
        tokens. `hidden` is refused with one layer."""
        norm_init: PositiveFloat = 1.0
        """What the learned scales of the norms start from. Only the default is taken without one."""
        num_layers: LayerCount = 2
        """Linear layers."""
        hidden_dim: PositiveInt | None = None
        """Width between the layers, behind the activation; None is the LLM's width D. Refused with one
        layer."""
        activation: Literal["gelu", "relu", "silu", "swiglu"] = "gelu"
        """Activation between the layers. `swiglu` halves the width: the layer in front of it gives 2 x
        `hidden_dim` channels, and the first half is multiplied by SiLU of the second. Only the default is
        taken with one layer."""
        bias: bool = False
        """Whether the linear layers have a bias."""
        boundaries: bool = False
        """Whether a learned vector stands before a clip's audio tokens, and another one after them."""

        def __post_init__(self) -> None:
            if self.remainder == "drop" and self.downsample == 1:
                raise ValueError("remainder is read only with a downsample of 2 or more")
            if self.window_frames is not None:
                if (self.pool, self.remainder) != ("stack", "pad"):
                    raise ValueError("window_frames is read only with pool: stack and remainder: pad")
                if self.window_frames % self.downsample == 0:
                    raise ValueError(
                        f"window_frames: a group begins after {self.window_frames} frames in any case, as "
                        f"downsample ({self.downsample}) divides them: leave it out"
                    )
            check_projection(self.num_layers, self.hidden_dim)
            if self.num_layers == 1 and self.activation != "gelu":
                raise ValueError("activation is read only with num_layers of 2 or more")
            if self.num_layers == 1 and self.second_norm == "hidden":
                raise ValueError("second_norm 'hidden' needs num_layers of 2 or more")
            if self.norm in {"none", "plain"} and self.second_norm == "none" and self.norm_init != 1.0:
                raise ValueError("norm_init is read only with a norm that has a learned scale")

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        in_dim = context.in_dim * (config.downsample if config.pool == "stack" else 1)
        self.norm: nn.Module | None = None
        if config.norm == "rms":
            self.norm = self._rms_norm(in_dim)
        elif config.norm != "none":
            self.norm = nn.LayerNorm(in_dim, elementwise_affine=config.norm == "layer")
            if config.norm == "layer":
                nn.init.constant_(self.norm.weight, config.norm_init)
        self.mlp = projection(
            in_dim,
            context.out_dim,
            config.num_layers,
            config.hidden_dim,
            _ACTIVATIONS[config.activation],
            bias=config.bias,
            norm=self._rms_norm if config.second_norm == "hidden" else None,
        )
        self.output_norm = self._rms_norm(context.out_dim) if config.second_norm == "output" else None
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
        num_frames += self._gaps(num_frames)
        return self._num_groups(num_frames) + (2 if self.config.boundaries else 0)

    def forward(self, features: Padded) -> AdapterOutput:
        """Adapt (B, F, E) to (B, T, D) with T = `max_tokens(F)`."""
        size = self.config.downsample
        features = self._in_windows(features)
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
        values = self.mlp(pooled)
        if self.output_norm is not None:
            values = self.output_norm(values)
        tokens = Padded(values, lengths)
        return AdapterOutput(tokens if self.boundaries is None else self._bounded(tokens), counts=counts)

    def _gaps(self, num_frames: int) -> int:
        """Return the zeros that fill up the last groups of all windows but the last."""
        if self.config.window_frames is None:
            return 0
        return (
            (num_frames - 1)
            // self.config.window_frames
            * (-self.config.window_frames % self.config.downsample)
        )

    def _in_windows(self, features: Padded) -> Padded:
        """Return (B, F + gaps, E) frames, zeros behind each window but the last of a clip."""
        window = self.config.window_frames
        longest = features.values.shape[1]
        if window is None or longest <= window:
            return features
        gap = -window % self.config.downsample
        pieces = torch.split(zero_past_lengths(features), window, dim=1)
        values = torch.cat([*(nn.functional.pad(p, (0, 0, 0, gap)) for p in pieces[:-1]), pieces[-1]], dim=1)
        return Padded(values, features.lengths + (features.lengths - 1).clamp(min=0) // window * gap)

    def _rms_norm(self, dim: int) -> RMSNorm:
        return RMSNorm(dim, self.config.norm_init)

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
