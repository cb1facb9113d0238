"""Attention with several heads, which the adapters' transformer layers share."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    num_heads: int,
    dropout: float = 0.0,
    turn: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Attend from N sequences to others.

    Args:
        query: (N, L, E).
        key: (N, K, E).
        value: (N, K, E).
        mask: (N, K) bool, true where a key may be looked at; None: everywhere.
        num_heads: Heads that E is divided into.
        dropout: Probability of dropping an attention weight.
        turn: What is done with the (N, heads, length, E / heads) queries and keys, as they have positions.

    Returns:
        (N, L, E).
    """
    # (N, length, E) -> (N, heads, length, E / heads)
    parts: list[Any] = [query, key, value]
    query, key, value = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in parts)
    if turn is not None:
        query, key = turn(query), turn(key)
    mask = None if mask is None else mask[:, None, None]
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, mask, dropout)
    # (N, heads, L, E / heads) -> (N, L, E)
    return mixed.transpose(1, 2).flatten(2)
