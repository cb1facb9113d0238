"""BEATs' network: patches of a spectrogram through a transformer."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn

from kikimimi import Padded, PositiveInt
from kikimimi_encoders import pretrained

MEL_BANDS = 128
PATCH = 16
"""Side of a patch [mel frames, mel bands]."""


@dataclass(kw_only=True, frozen=True)
class Sizes(pretrained.Sizes):
    """Sizes of a BEATs with random weights; the defaults are those of the published models."""

    patch_dim: PositiveInt = 512
    """Width of the patches before they are projected to `dim`; another one than that."""
    conv_pos: PositiveInt = 128
    """Kernel of the convolutional positions [patches]."""
    conv_pos_groups: PositiveInt = 16
    """Groups of that convolution; they divide `dim`."""
    num_buckets: Annotated[int, Ge(4), MultipleOf(4)] = 320
    """Buckets of relative distances; a multiple of 4."""
    max_distance: PositiveInt = 800
    """Distance from which on all fall in the last bucket [patches]; above `num_buckets` / 4."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_divisors("conv_pos_groups")
        if self.patch_dim == self.dim:
            raise ValueError(f"sizes.patch_dim must differ from sizes.dim ({self.dim})")
        if self.max_distance <= self.num_buckets // 4:
            raise ValueError(
                f"sizes.max_distance must be above sizes.num_buckets / 4 ({self.num_buckets // 4}), not "
                f"{self.max_distance}"
            )


class BEATsPositionalConvolution(nn.Module):
    """Adds to each patch what a wide grouped convolution makes of its surroundings (wav2vec 2.0).

    The kernel is normalised over all but its last axis, and scaled per tap: weight normalisation of dim 2,
    under the names that checkpoints have. With an even kernel the last position is left out.
    """

    def __init__(self, dim: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight_v = nn.Parameter(torch.empty(dim, dim // groups, kernel_size))
        nn.init.normal_(self.weight_v, std=math.sqrt(4 / (kernel_size * dim)))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, patches: Tensor) -> Tensor:
        """Return what is to be added to (B, F, E) patches, which are zero past the lengths."""
        kernel_size = self.weight_v.shape[-1]
        direction = self.weight_v.float()
        # In float32: the norm is over tens of thousands of values.
        kernel = direction * (self.weight_g.float() / direction.norm(dim=(0, 1), keepdim=True))
        # (B, F, E) -> (B, E, F)
        surroundings = F.conv1d(
            patches.transpose(1, 2),
            kernel.to(patches.dtype),
            self.bias.to(patches.dtype),
            padding=kernel_size // 2,
            groups=self.groups,
        )
        return F.gelu(surroundings[..., : patches.shape[1]]).transpose(1, 2)


class BEATsAttention(nn.Module):
    """Self-attention with a relative position bias that a gate of each query scales (WavLM's, equation 5 on).

    Unlike WavLM, which reads the gate off the layer's input, BEATs reads it off the projected query. The
    division of the scores by 32 before and the multiplication by 32 after subtracting their maximum, which
    keep half precision from overflowing in the reference, change nothing and are left to the fused attention.

    Args:
        dim: Width E.
        num_heads: Attention heads H.
        num_buckets: Rows of the bias table, for a layer that owns it: the first, whose bias all share.
    """

    def __init__(self, dim: int, num_heads: int, num_buckets: int | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.grep_linear = nn.Linear(dim // num_heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, num_heads, 1, 1))
        self.relative_attention_bias = None if num_buckets is None else nn.Embedding(num_buckets, num_heads)

    def position_bias(self, buckets: Tensor) -> Tensor:
        """Return the (H, F, F) bias of the (F, F) buckets that each query sees each key in."""
        assert self.relative_attention_bias is not None
        # (F, F, H) -> (H, F, F)
        values: Tensor = self.relative_attention_bias(buckets)
        return values.permute(2, 0, 1).contiguous()

    def forward(self, patches: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            patches: (B, F, E).
            bias: (H, F, F) relative position bias before the gate.
            mask: (B, F) true where a patch is real.

        Returns:
            (B, F, E).
        """
        # (B, F, E) -> (B, H, F, width)
        query, key, value = (
            proj(patches).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        # (B, H, F, 8) -> (B, H, F, 2): two gates, each a sum of four values.
        gates = self.grep_linear(query).unflatten(-1, (2, 4)).sum(-1).sigmoid()
        # (B, H, F, 1)
        scale = gates[..., :1] * (gates[..., 1:] * self.grep_a - 1.0) + 2.0
        scores = (scale * bias).to(query.dtype).masked_fill(~mask[:, None, None], -math.inf)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=scores)
        # (B, H, F, width) -> (B, F, E)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class BEATsLayer(nn.Module):
    """Post-norm attention and feed-forward with a scaled residual: DeepNorm (arXiv 2203.00555)."""

    def __init__(
        self, dim: int, num_heads: int, ffn_dim: int, num_buckets: int | None, residual_scale: float
    ) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.self_attn = BEATsAttention(dim, num_heads, num_buckets)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(
        self, patches: Tensor, mask: Tensor, buckets: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Transform (B, F, E) patches, of which (B, F) are real.

        Args:
            patches: What enters the layer.
            mask: True where a patch is real.
            buckets: (F, F) in which each query sees each key.
            bias: What the first layer returned; None for the first. It is made there and not outside, as
                the layer's weights are at hand only while it runs where they are sharded.

        Returns:
            (B, F, E) what leaves the layer, and (H, F, F) the bias for the next one.
        """
        if bias is None:
            bias = self.self_attn.position_bias(buckets)
        attended = patches * self.residual_scale + self.self_attn(patches, bias, mask)
        patches = self.self_attn_layer_norm(attended)
        fed = patches * self.residual_scale + self.fc2(F.gelu(self.fc1(patches)))
        return self.final_layer_norm(fed), bias


class BEATsTransformer(nn.Module):
    """Positions and layers; `encoder` in a checkpoint.

    Args:
        sizes: Sizes of the whole model; its layers set the residual's scale: (2 x layers) ** 1/4.
        last: Layers to build, from the first on.
    """

    def __init__(self, sizes: Sizes, last: int) -> None:
        super().__init__()
        self.num_buckets = sizes.num_buckets
        self.max_distance = sizes.max_distance
        # A list, for the checkpoints' name: pos_conv.0.
        self.pos_conv = nn.ModuleList(
            [BEATsPositionalConvolution(sizes.dim, sizes.conv_pos, sizes.conv_pos_groups)]
        )
        self.layer_norm = nn.LayerNorm(sizes.dim)
        self.layers = nn.ModuleList(
            BEATsLayer(
                sizes.dim,
                sizes.num_heads,
                sizes.ffn_dim,
                None if number else sizes.num_buckets,
                residual_scale=(2 * sizes.num_layers) ** 0.25,
            )
            for number in range(last)
        )
        deep_norm_gain = (8 * sizes.num_layers) ** -0.25
        for name, parameter in self.layers.named_parameters():
            if name.endswith(("k_proj.weight", "q_proj.weight")):
                nn.init.xavier_normal_(parameter)
            elif name.endswith(("v_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")):
                nn.init.xavier_normal_(parameter, gain=deep_norm_gain)
            elif name.endswith(("grep_linear.weight", "relative_attention_bias.weight")):
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith(("_proj.bias", "fc1.bias", "fc2.bias", "grep_linear.bias")):
                nn.init.zeros_(parameter)

    def forward(self, patches: Tensor, mask: Tensor) -> list[Tensor]:
        """Transform (B, F, E) patches, of which (B, F) are real.

        Returns:
            What enters the first layer, and what leaves each, (B, F, E).
        """
        patches = patches.masked_fill(~mask[..., None], 0.0)
        patches = self.layer_norm(patches + self.pos_conv[0](patches))
        outputs = [patches]
        buckets = self._buckets(patches.shape[1]).to(patches.device)
        bias: Tensor | None = None
        for layer in self.layers:
            patches, bias = layer(patches, mask, buckets, bias)
            outputs.append(patches)
        return outputs

    def _buckets(self, length: int) -> Tensor:
        """Return (F, F): the bucket of each key as each query sees it."""
        # On the CPU, as in the reference: which bucket a distance falls in hangs on a logarithm's last digit.
        distances = torch.arange(1 - length, length, device="cpu")
        buckets = position_buckets(distances, self.num_buckets, self.max_distance)
        positions = torch.arange(length, device="cpu")
        return buckets[positions[None, :] - positions[:, None] + length - 1]


class BEATsModel(nn.Module):
    """Patch embedding and transformer; names of parameters as in the published checkpoints.

    Args:
        sizes: Sizes of the whole model.
        last: Layers to build, from the first on.
    """

    def __init__(self, sizes: Sizes, last: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(1, sizes.patch_dim, PATCH, stride=PATCH, bias=False)
        self.layer_norm = nn.LayerNorm(sizes.patch_dim)
        self.post_extract_proj = nn.Linear(sizes.patch_dim, sizes.dim)
        self.encoder = BEATsTransformer(sizes, last)

    def forward(self, mel: Padded) -> list[Tensor]:
        """Transform (B, mel frames, mels), whole patches, to (B, F, E) of each layer, the input first."""
        # (B, rows x 16, 128) -> (B, width, rows, 8) -> (B, rows x 8, width): low bands first in each row.
        patches = self.patch_embedding(mel.values[:, None]).flatten(2).transpose(1, 2)
        frames = self.post_extract_proj(self.layer_norm(patches))
        lengths = mel.lengths * (MEL_BANDS // PATCH) // PATCH
        outputs: list[Tensor] = self.encoder(frames, Padded(frames, lengths).mask())
        return outputs


def position_buckets(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Return the bucket of each distance from a query to a key [positions], as in T5 (Raffel et al. 2020).

    Half the buckets are for keys behind the query's position; of each half, the first half holds single
    distances, and the rest grows logarithmically up to `max_distance`, with all beyond in the last.
    """
    half = num_buckets // 2
    exact = half // 2
    sizes = distances.abs()
    # Below `exact` the logarithm is not used; clamped, so that it is not of zero.
    growth = torch.log(sizes.clamp(min=exact).float() / exact) / math.log(max_distance / exact)
    large = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(sizes < exact, sizes, large) + half * (distances > 0)
