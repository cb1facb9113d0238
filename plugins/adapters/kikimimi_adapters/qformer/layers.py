"""The layers of a Q-Former: learned queries that attend to each other and to frames."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerLayer

from kikimimi_adapters.attention import attend

Source = tuple[Tensor, Tensor]
"""What n groups of queries look at: (n, K, E) frames, finite also where they are not real, and (n, K) bool,
true where they are: at least once for each group."""

NORM_EPS = 1e-12
"""Of every LayerNorm, as in BERT."""
INIT_STD = 0.02
"""Standard deviation of every linear layer's first weights, as in BERT."""


class QFormerLayer(Blip2QFormerLayer):  # type: ignore[misc]
    """Self-attention of the queries, cross-attention to the frames, feed-forward; post-norm.

    The parts are transformers'. Its own forward pass takes all groups of queries to one tensor of frames.
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, hidden: Tensor, sources: Sequence[Source]
    ) -> Tensor:
        """Transform (N, Q, H) queries; the first groups look at the first source, and so on."""
        hidden = self._look(self.attention, hidden, hidden, None)
        if self.has_cross_attention:
            groups = torch.split(hidden, [len(frames) for frames, _ in sources])
            hidden = torch.cat(
                [
                    self._look(self.crossattention, group, frames, mask)
                    for group, (frames, mask) in zip(groups, sources, strict=True)
                ]
            )
        out: Tensor = self.output_query(self.intermediate_query(hidden), hidden)
        return out

    def _look(self, block: Any, hidden: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        """Run a `Blip2QFormerAttention` by torch's fused kernels: from (N, Q, H) to (N, K, width)."""
        inner = block.attention
        mixed = attend(
            inner.query(hidden),
            inner.key(source),
            inner.value(source),
            mask,
            num_heads=inner.num_attention_heads,
            dropout=inner.config.attention_probs_dropout_prob if self.training else 0.0,
        )
        out: Tensor = block.output(mixed, hidden)
        return out


class QFormer(nn.Module):
    """Querying transformer (BLIP-2: Li et al. 2023, arXiv 2301.12597), for queries alone.

    Equals transformers' `Blip2QFormerModel` and takes its state dict, except that with `input_norm: false`
    there is no `layernorm` of the queries.

    Args:
        config: Options with `num_layers`, `hidden_dim` (H, the width of the queries), `num_heads`, `ffn_dim`
            and `dropout`, a probability, on attention weights and before each residual.
        source_dim: Width of the frames.
        num_queries: Queries in a group. A query that is alone can only attend to itself, so the query and key
            layers of its self-attention change nothing: they are kept for the reference's shape, and frozen.
        cross_attention_frequency: The first of so many layers attends to the frames.
        input_norm: Whether the queries pass a LayerNorm and a dropout first.
    """

    def __init__(
        self,
        config: Any,
        *,
        source_dim: int,
        num_queries: int = 1,
        cross_attention_frequency: int = 1,
        input_norm: bool = True,
    ) -> None:
        super().__init__()
        sizes = Blip2QFormerConfig(
            hidden_size=config.hidden_dim,
            encoder_hidden_size=source_dim,
            num_attention_heads=config.num_heads,
            intermediate_size=config.ffn_dim,
            cross_attention_frequency=cross_attention_frequency,
            attention_probs_dropout_prob=config.dropout,
            hidden_dropout_prob=config.dropout,
            layer_norm_eps=NORM_EPS,
            use_qformer_text_input=False,
        )
        self.layernorm = nn.LayerNorm(config.hidden_dim, eps=NORM_EPS) if input_norm else None
        self.dropout = nn.Dropout(config.dropout)
        layers = nn.ModuleList(QFormerLayer(sizes, number) for number in range(config.num_layers))
        self.encoder: Any = nn.ModuleDict({"layer": layers})
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
        for layer in self.encoder["layer"]:
            queries = layer(queries, sources)
        return queries
