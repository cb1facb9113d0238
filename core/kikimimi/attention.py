"""Attention over sequences laid end to end, for transformers' models.

`install()` registers an attention function with transformers; a model chosen to use it runs causal attention
sequence by sequence when it is given `sequence_lengths`, which costs no block mask and no work between
sequences, and is transformers' own SDPA in every other call (generation with padding, for one).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PACKED_ATTENTION = "kikimimi_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sequence_lengths: list[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence of a pack.

    Args:
        module: The attention layer that calls.
        query: (1, heads, N, head width).
        key: (1, key-value heads, N, head width).
        value: Like `key`.
        attention_mask: Unused when `sequence_lengths` is given.
        dropout: Attention dropout probability.
        scaling: Factor on the scores; None is one over the root of the head width.
        sequence_lengths: Lengths that add up to N; None means the call is not packed.
        kwargs: Passed on to transformers' SDPA when the call is not packed.

    Returns:
        (1, N, heads, head width), and None for the attention weights, which are never formed.
    """
    if sequence_lengths is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    grouped = key.shape[1] != query.shape[1]
    pieces = [
        F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        for q, k, v in zip(
            torch.split(query, sequence_lengths, dim=2),
            torch.split(key, sequence_lengths, dim=2),
            torch.split(value, sequence_lengths, dim=2),
            strict=True,
        )
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


def install() -> str:
    """Register the function with transformers (again is harmless) and return the name to select it by."""
    ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, packed_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, sdpa_mask)
    return PACKED_ATTENTION


def packed_arguments(embeddings: Tensor, lengths: Tensor) -> dict[str, Any]:
    """Return the keyword arguments that make a transformers decoder run a pack.

    Args:
        embeddings: (N, D).
        lengths: (B,) positions of each sequence.
    """
    device = embeddings.device
    positions = torch.cat([torch.arange(length, device=device) for length in lengths.tolist()])
    return {
        "inputs_embeds": embeddings[None],
        "position_ids": positions[None],
        # transformers hands a four-dimensional mask through untouched: an empty one keeps it from building
        # the dense (N, N) block mask that packed_attention makes needless.
        "attention_mask": torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device),
        "sequence_lengths": lengths.tolist(),
        "use_cache": False,
    }
