"""Attention over sequences laid end to end, for transformers' models.

`install_packed_attention` registers an attention function with transformers; a model chosen to use it runs
causal attention sequence by sequence when it is given `sequence_lengths`, which costs no block mask and no
work between sequences. Every other call (generation with padding, for one) is transformers' own SDPA, or the
same by hand where the scores are capped, which SDPA cannot do.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PACKED_ATTENTION = "kikimimi_packed"

_REFUSED = {"s_aux": "attention sinks", "sinks": "attention sinks", "position_bias": "position biases"}


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sequence_lengths: list[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence of a pack.

    Args:
        module: The attention layer that calls.
        query: (1, heads, N, head width).
        key: (1, key-value heads, N, head width).
        value: Values, shaped like `key`.
        attention_mask: Unused when `sequence_lengths` is given.
        dropout: Attention dropout probability.
        scaling: Factor on the scores; None is one over the root of the head width.
        sliding_window: A position sees this many positions, itself among them; None is all before it. A call
            that is not packed has it in its mask.
        softcap: Scores s become softcap * tanh(s / softcap) (Gemma 2); None leaves them.
        sequence_lengths: Lengths that add up to N; None means the call is not packed.
        kwargs: Passed on to transformers' SDPA when the call is not packed.

    Returns:
        (1, N, heads, head width), and None for the attention weights, which are never formed.

    Raises:
        NotImplementedError: The architecture wants attention of a kind that is not computed here.
    """
    # Refused, as leaving it out would give other scores without a word.
    for name, what in _REFUSED.items():
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"{type(module).__name__} uses {what}, which are not supported")
    if sequence_lengths is None:
        if attention_mask is not None and attention_mask.numel() == 0:
            raise NotImplementedError(f"{type(module).__name__} is not told the lengths of a pack")
        if softcap is not None:
            causal = attention_mask is None and query.shape[2] > 1
            mask = _causal(query, None) if causal else attention_mask
            return _capped(query, key, value, mask, dropout, scaling, softcap).transpose(1, 2), None
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    pieces = []
    for q, k, v in zip(
        torch.split(query, sequence_lengths, dim=2),
        torch.split(key, sequence_lengths, dim=2),
        torch.split(value, sequence_lengths, dim=2),
        strict=True,
    ):
        if softcap is not None:
            pieces.append(_capped(q, k, v, _causal(q, sliding_window), dropout, scaling, softcap))
            continue
        windowed = sliding_window is not None and q.shape[2] > sliding_window
        pieces.append(
            F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=_causal(q, sliding_window) if windowed else None,
                dropout_p=dropout,
                is_causal=not windowed,
                scale=scaling,
                enable_gqa=key.shape[1] != query.shape[1],
            )
        )
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


def _causal(query: Tensor, window: int | None) -> Tensor:
    """Return (L, L) bool, true where a query may look: at itself and the `window` - 1 positions before."""
    length = query.shape[2]
    allowed = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    return allowed if window is None else allowed.triu(1 - window)


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float,
) -> Tensor:
    """Attention with capped scores; shapes as in `packed_attention`, with a batch dimension."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scale / softcap)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    weights = F.dropout(scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype), dropout)
    return weights @ value


def install_packed_attention() -> str:
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
