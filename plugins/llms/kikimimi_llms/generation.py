"""Generation through transformers: settings, left padding, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from kikimimi import Generation


def pad_left(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return prompts (L_i, D) as (B, L, D), and a mask (B, L) that is 1 where a position is real."""
    longest = max(len(prompt) for prompt in prompts)
    embeddings = torch.stack([nn.functional.pad(p, (0, 0, longest - len(p), 0)) for p in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=embeddings.device)
    mask = torch.arange(longest, device=embeddings.device) >= longest - lengths[:, None]
    return embeddings, mask.long()


def settings(generation: Generation, stop_ids: Sequence[int], **others: Any) -> GenerationConfig:
    """Return transformers' settings; nothing of a model's own generation_config.json is mixed in."""
    sampling = generation.temperature > 0
    drawn = {"temperature": generation.temperature, "top_p": generation.top_p, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=generation.max_new_tokens,
        do_sample=sampling,
        num_beams=generation.num_beams,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
        **(drawn if sampling else {}),
        **others,
    )


def until_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    """Return the ids before the first one that ends an answer."""
    for i, token_id in enumerate(ids):
        if token_id in stop_ids:
            return ids[:i]
    return ids
