"""The layers of a Q-Former: learned queries that attend to each other and to frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import (
    Blip2QFormerIntermediate,
    Blip2QFormerOutput,
    Blip2QFormerSelfOutput,
)

Source = tuple[Tensor, Tensor]
"""What n groups of queries look at: (n, K, E) frames, finite also where they are not real, and (n, K) bool,
true where they are: at least once for each group."""

NORM_EPS = 1e-12
"""Of every LayerNorm, as in BERT."""
INIT_STD = 0.02
"""Standard deviation of every linear layer's first weights, as in BERT."""


class QFormerAttention(nn.Module):
    """Multi-head attention with separate key and value width, through torch's fused kernels.

    Names of parameters as in transformers' `Blip2QFormerMultiHeadAttention`.
    """

    def __init__(self, sizes: Blip2QFormerConfig, source_dim: int) -> None:
        super().__init__()
        self.num_heads = sizes.num_attention_heads
        self.dropout = sizes.attention_probs_dropout_prob
        dim = sizes.hidden_size
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(source_dim, dim)
        self.value = nn.Linear(source_dim, dim)

    def forward(self, hidden: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from (N, Q, H) to (N, K, width) where `mask` (N, K) is true (None: everywhere)."""
        # (N, length, H) -> (N, heads, length, H / heads)
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query(hidden), self.key(source), self.value(source))
        )
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if mask is None else mask[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return mixed.transpose(1, 2).flatten(2)


class QFormerBlock(nn.Module):
    """Attention with its output. Names as in `Blip2QFormerAttention`."""

    def __init__(self, sizes: Blip2QFormerConfig, source_dim: int) -> None:
        super().__init__()
        self.attention = QFormerAttention(sizes, source_dim)
        self.output = Blip2QFormerSelfOutput(sizes)

    def forward(self, hidden: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from (N, Q, H) to (N, K, width)."""
        out: Tensor = self.output(self.attention(hidden, source, mask), hidden)
        return out


class QFormerLayer(nn.Module):
    """Self-attention of the queries, cross-attention to the frames, feed-forward; post-norm.

    Names as in transformers' `Blip2QFormerLayer`, without the branch that reads text.
    """

    def __init__(self, sizes: Blip2QFormerConfig, number: int) -> None:
        super().__init__()
        self.attention = QFormerBlock(sizes, sizes.hidden_size)
        looks = number % sizes.cross_attention_frequency == 0
        self.crossattention = QFormerBlock(sizes, sizes.encoder_hidden_size) if looks else None
        self.intermediate_query = Blip2QFormerIntermediate(sizes)
        self.output_query = Blip2QFormerOutput(sizes)

    def forward(self, hidden: Tensor, sources: Sequence[Source]) -> Tensor:
        """Transform (N, Q, H) queries; the first groups look at the first source, and so on."""
        hidden = self.attention(hidden, hidden)
        if self.crossattention is not None:
            groups = torch.split(hidden, [len(frames) for frames, _ in sources])
            hidden = torch.cat(
                [
                    self.crossattention(group, frames, mask)
                    for group, (frames, mask) in zip(groups, sources, strict=True)
                ]
            )
        out: Tensor = self.output_query(self.intermediate_query(hidden), hidden)
        return out


class QFormerEncoder(nn.Module):
    """The stack of layers. Names as in `Blip2QFormerEncoder`."""

    def __init__(self, sizes: Blip2QFormerConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(QFormerLayer(sizes, number) for number in range(sizes.num_hidden_layers))

    def forward(self, hidden: Tensor, sources: Sequence[Source]) -> Tensor:
        """Run every layer on (N, Q, H)."""
        for layer in self.layer:
            hidden = layer(hidden, sources)
        return hidden


class QFormer(nn.Module):
    """Querying transformer (BLIP-2: Li et al. 2023, arXiv 2301.12597), for queries alone.

    Equals transformers' `Blip2QFormerModel` and takes its state dict, except that with `input_norm: false`
    there is no `layernorm` of the queries.

    Args:
        dim: Width H of the queries.
        source_dim: Width of the frames.
        num_layers: Layers.
        num_heads: Heads of each attention; they divide `dim`.
        ffn_dim: Inner width of the feed-forward networks.
        cross_attention_frequency: The first of so many layers attends to the frames.
        dropout: Probability, on attention weights and before each residual.
        num_queries: Queries in a group. A query that is alone can only attend to itself, so the query and key
            layers of its self-attention change nothing: they are kept for the reference's shape, and frozen.
        input_norm: Whether the queries pass a LayerNorm and a dropout first.
    """

    def __init__(
        self,
        *,
        dim: int,
        source_dim: int,
        num_layers: int,
        num_heads: int,
        ffn_dim: int,
        cross_attention_frequency: int,
        dropout: float,
        num_queries: int,
        input_norm: bool,
    ) -> None:
        super().__init__()
        sizes = Blip2QFormerConfig(
            hidden_size=dim,
            encoder_hidden_size=source_dim,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=ffn_dim,
            cross_attention_frequency=cross_attention_frequency,
            attention_probs_dropout_prob=dropout,
            hidden_dropout_prob=dropout,
            layer_norm_eps=NORM_EPS,
        )
        self.layernorm = nn.LayerNorm(dim, eps=NORM_EPS) if input_norm else None
        self.dropout = nn.Dropout(dropout)
        self.encoder = QFormerEncoder(sizes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
            if isinstance(module, QFormerLayer) and num_queries == 1:
                module.attention.attention.query.requires_grad_(False)
                module.attention.attention.key.requires_grad_(False)

    def forward(self, queries: Tensor, sources: Sequence[Source]) -> Tensor:
        """Let groups of queries look at frames, each group at its own.

        Args:
            queries: (N, Q, H).
            sources: The frames of the groups in order, which may lie in several tensors where their numbers
                are far apart. However many there are, each layer is called once: under FSDP every rank has to
                call the layers equally often.

        Returns:
            (N, Q, H).
        """
        if self.layernorm is not None:
            queries = self.dropout(self.layernorm(queries))
        out: Tensor = self.encoder(queries, sources)
        return out
