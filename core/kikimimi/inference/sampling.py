"""Sampling that comes out again: each prompt draws from random numbers of its own."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from kikimimi.contracts.conversation import Conversation
from kikimimi.contracts.generation import Generation

_MULTINOMIAL = torch.multinomial


def prompt_seed(seed: int, conversation: Conversation, clips: Sequence[Tensor]) -> int:
    """Return what seeds the answer to a prompt: it depends on what is asked and heard, and on nothing else.

    Args:
        seed: The run's.
        conversation: The turns before the answer.
        clips: (S,) waveforms of its audio parts.
    """
    digest = hashlib.sha256(f"{seed} {conversation!r}".encode())
    for clip in clips:
        digest.update(clip.detach().cpu().numpy().tobytes())
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def drawn(probabilities: Tensor, generator: torch.Generator, number: int = 1) -> Tensor:
    """Draw (number,) ids without replacement from (V,) probabilities, which need not add up to 1.

    By exponential numbers, as torch's own draw is: the largest of p / q.
    """
    noise = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / noise).topk(number).indices


def choose(logits: Tensor, generation: Generation, generator: torch.Generator | None) -> int:
    """Return the id that follows, as transformers' `generate` chooses it.

    Args:
        logits: (V,) fp32.
        generation: Temperature and nucleus.
        generator: What a sampled id is drawn from; None is greedy.
    """
    if generator is None:
        return int(logits.argmax())
    logits = logits / generation.temperature
    if generation.top_p < 1:
        ascending, ids = logits.sort()
        below = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - generation.top_p
        below[-1] = False
        logits = logits.index_fill(0, ids[below], -torch.inf)
    return int(drawn(logits.softmax(dim=-1), generator))


class _RowDraws:
    """Stands in for `torch.multinomial`: each row of a batch draws from its own generator."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._rows = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input: Tensor, num_samples: int, replacement: bool = False, **others: Any) -> Tensor:
        if others or replacement or input.dim() != 2 or len(input) != len(self._rows):
            return _MULTINOMIAL(input, num_samples, replacement, **others)
        rows = zip(input, self._rows, strict=True)
        return torch.stack([drawn(row, own, num_samples) for row, own in rows])


@contextmanager
def drawn_by_row(seeds: Sequence[int], device: torch.device) -> Iterator[None]:
    """Let each answer of a batch be drawn from numbers of its own, whatever else is in the batch.

    What an LLM draws otherwise than by `torch.multinomial` with a row for each prompt depends on the whole
    batch, and comes out again with the same batch alone.

    Args:
        seeds: Seeds of the answers, one for each prompt of the batch.
        device: Where the LLM draws.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(sum(seeds) >> 1 & (1 << 62) - 1)
        with patch.object(torch, "multinomial", _RowDraws(seeds, device)):
            yield
