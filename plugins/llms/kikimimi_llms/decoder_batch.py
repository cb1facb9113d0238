"""Decoders of transformers, continued a token at a time with one key-value cache for all rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from kikimimi import Generation, RunningBatch
from kikimimi_llms.rope import switching_length


class DecoderBatch(RunningBatch):
    """Rows of a decoder, padded on the left to the longest of them.

    Every layer keeps all positions, also those of sliding windows, which their masks leave out.

    Args:
        model: The model with its head.
        embed: Embeds (B,) ids to (B, D).
        until_stop: Returns the ids of an answer before its end, or all of them.
    """

    def __init__(
        self, model: Any, embed: Callable[[Tensor], Tensor], until_stop: Callable[[list[int]], list[int]]
    ) -> None:
        self._model, self._embed, self._until_stop = model, embed, until_stop
        self._switch = switching_length(model)
        known = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in known else "past_key_values"
        self._cache = DynamicCache()
        self._mask = torch.empty(0, 0, dtype=torch.long)  # (B, L), 0 on padding

    def takes(self, positions: int, generation: Generation) -> bool:
        """Whether it is continued without beams, and not past where LongRoPE switches its factors."""
        longest = positions + generation.max_new_tokens
        crosses = self._switch is not None and positions <= self._switch < longest
        return generation.num_beams == 1 and not crosses

    def enter(self, prompts: Sequence[Tensor]) -> Tensor:
        """Read prompts (L_i, D) as a batch, and put its cache beside the others' rows."""
        longest = max(len(prompt) for prompt in prompts)
        embeddings = torch.stack([nn.functional.pad(p, (0, 0, longest - len(p), 0)) for p in prompts])
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
        for row, prompt in enumerate(prompts):
            mask[row, : longest - len(prompt)] = 0
        cache = DynamicCache()
        logits = self._run(embeddings, mask, cache)
        if len(self._mask):
            width = max(longest, self._mask.shape[1])
            for old, new in zip(_layers(self._cache), _layers(cache), strict=True):
                old.keys = torch.cat([_widened(old.keys, width), _widened(new.keys, width)])
                old.values = torch.cat([_widened(old.values, width), _widened(new.values, width)])
            masks = [nn.functional.pad(m, (width - m.shape[1], 0)) for m in (self._mask, mask)]
            self._mask = torch.cat(masks)
        else:
            self._cache, self._mask = cache, mask
        return logits

    def step(self, ids: Tensor) -> Tensor:
        """Read one id of each row."""
        self._mask = nn.functional.pad(self._mask, (0, 1), value=1)
        embeddings = self._embed(ids)[:, None].to(_layers(self._cache)[0].keys.dtype)
        return self._run(embeddings, self._mask, self._cache)

    def keep(self, rows: Sequence[int]) -> None:
        """Let the other rows go, and with them the columns that are padding in all that stay."""
        if not rows:
            self._cache, self._mask = DynamicCache(), self._mask.new_empty(0, 0)
            return
        chosen = torch.tensor(rows, device=self._mask.device)
        mask = self._mask[chosen]
        first = int(mask.any(dim=0).long().argmax())
        self._mask = mask[:, first:]
        for layer in _layers(self._cache):
            layer.keys = layer.keys[chosen, :, first:]
            layer.values = layer.values[chosen, :, first:]

    def ended(self, ids: Sequence[int]) -> list[int] | None:
        """Return an answer before the first id that ends it."""
        kept = self._until_stop(list(ids))
        return kept if len(kept) < len(ids) else None

    def _run(self, embeddings: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        new = embeddings.shape[1]
        output = self._model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=((mask.cumsum(1) - 1) * mask)[:, -new:],
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_name: cache},
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits


def _layers(cache: DynamicCache) -> list[Any]:
    """Return what is kept of each layer: `keys` and `values`, (B, H, L, D)."""
    return list(cache.layers)


def _widened(states: Tensor, width: int) -> Tensor:
    """Pad (B, H, L, D) on the left to `width` positions."""
    return nn.functional.pad(states, (0, 0, width - states.shape[2], 0))
