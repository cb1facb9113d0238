"""Several layers of the encoder are read together: attention over time, then over layers."""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from kikimimi import Adapter, AdapterContext, AdapterOutput, ComponentConfig, Padded, PositiveInt
from kikimimi_adapters.attention import attend
from kikimimi_adapters.frame_groups import FrameGroups


class SelfAttention(nn.Module):
    """Self-attention without positions. Names as in OpenAI's Whisper, whose key has no bias."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, vectors: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within the rows of (rows, length, E) vectors, of which (rows, length) are real."""
        query, key, value = self.query(vectors), self.key(vectors), self.value(vectors)
        out: Tensor = self.out(attend(query, key, value, mask, num_heads=self.num_heads))
        return out


class ResidualAttentionBlock(nn.Module):
    """Pre-norm attention and feed-forward network, as in OpenAI's Whisper."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(dim, num_heads)
        self.attn_ln = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.mlp_ln = nn.LayerNorm(dim)

    def forward(self, vectors: Tensor, mask: Tensor | None) -> Tensor:
        """Transform the rows of (rows, length, E) vectors, of which (rows, length) are real."""
        vectors = vectors + self.attn(self.attn_ln(vectors), mask)
        out: Tensor = vectors + self.mlp(self.mlp_ln(vectors))
        return out


class TLTRAdapter(Adapter):
    """Time and layer-wise transformer of Whisper-AT and LTU-AS, and LTU-AS's projection.

    The frames of each encoder layer are averaged in groups; one transformer block, the same for every layer,
    looks along time; another one looks, at each time, along the layers, which are then averaged; a layer norm
    without parameters and a linear layer follow. Gong et al. 2023, arXiv 2307.03183 (section 3) and arXiv
    2309.14405 (section 3); `ATModel` and `audio_proj` in src/ltu_as of YuanGongND/ltu, `block_reduce` in its
    extract_whisper_feature.py. LTU-AS is the defaults, with `layers: [1, 2, ..., 32]` of Whisper-large as the
    encoder; Whisper-AT's smaller variant is `dim: 512`.

    The encoder has to hand over several layers, side by side. A mean is over the real frames of a group.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        """Options of the `tltr` adapter."""

        downsample: PositiveInt = 20
        """Encoder frames per audio token."""
        time_heads: PositiveInt = 1
        """Attention heads of the block that looks along time; they divide the blocks' width."""
        layer_heads: PositiveInt = 8
        """Attention heads of the block that looks along layers; they divide the blocks' width."""
        dim: PositiveInt | None = None
        """Width of the blocks, which a layer norm and a linear layer lead to; None is that of an encoder
        layer, and then there are neither."""

    config: Config

    def __init__(self, config: Config, context: AdapterContext) -> None:
        super().__init__(config, context)
        if context.num_concat_layers < 2:
            raise ValueError(
                "adapter 'tltr' looks along the layers of the encoder, and gets only one: name two or more "
                "with encoder.layers, and combine: concat"
            )
        layer_dim = context.in_dim // context.num_concat_layers
        dim = config.dim or layer_dim
        for name in ("time_heads", "layer_heads"):
            if dim % getattr(config, name):
                raise ValueError(
                    f"{name} ({getattr(config, name)}) must divide the width of the blocks ({dim})"
                )
        self.down_layer = (
            None if config.dim is None else nn.Sequential(nn.LayerNorm(layer_dim), nn.Linear(layer_dim, dim))
        )
        self.time_tr = ResidualAttentionBlock(dim, config.time_heads)
        self.layer_tr = ResidualAttentionBlock(dim, config.layer_heads)
        self.audio_proj = nn.Sequential(
            nn.LayerNorm(dim, elementwise_affine=False), nn.Linear(dim, context.out_dim)
        )

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Config:
        """Return `config` with blocks 32 wide, where it names a width."""
        chosen: TLTRAdapter.Config = cls.Config() if config is None else config
        if chosen.dim is None:
            return chosen
        return replace(
            chosen, dim=32, time_heads=min(2, chosen.time_heads), layer_heads=min(4, chosen.layer_heads)
        )

    def shard_classes(self) -> set[type[nn.Module]]:
        """Return the class of a block."""
        return {ResidualAttentionBlock}

    def max_tokens(self, num_frames: int) -> int:
        """Return ceil(F / downsample), which is exact."""
        return -(-num_frames // self.config.downsample)

    def forward(self, features: Padded) -> AdapterOutput:
        """Adapt (B, F, K x E) to (B, ceil(F / downsample), D)."""
        size = self.config.downsample
        means = FrameGroups.split(features, size, self.max_tokens(features.values.shape[1])).mean()
        pooled = Padded(means, -(-features.lengths // size))
        batch, tokens, _ = pooled.values.shape
        num_concat_layers = self.context.num_concat_layers
        # (B, T, K x E) -> (B, K, T, E) -> (B x K, T, E)
        rows = pooled.values.view(batch, tokens, num_concat_layers, -1).transpose(1, 2).flatten(0, 1)
        if self.down_layer is not None:
            rows = self.down_layer(rows)
        rows = self.time_tr(rows, pooled.mask().repeat_interleave(num_concat_layers, dim=0))
        # (B x K, T, E) -> (B, T, K, E) -> (B x T, K, E)
        rows = rows.unflatten(0, (batch, num_concat_layers)).transpose(1, 2).flatten(0, 1)
        mixed = self.layer_tr(rows, None).mean(1)
        # (B x T, E) -> (B, T, D)
        values = self.audio_proj(mixed.unflatten(0, (batch, tokens)))
        return AdapterOutput(Padded(values, pooled.lengths))
