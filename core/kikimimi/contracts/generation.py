"""How an LLM generates text. Without torch, so that recipes can be read without it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, frozen=True)
class Generation:
    """How to generate text."""

    max_new_tokens: int = 256
    """Longest answer [tokens]."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: float = 1.0
    """Nucleus: sample from the most probable tokens that together reach this probability."""
    num_beams: int = 1
    """Beams of beam search; 1 is none."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.num_beams < 1:
            raise ValueError(f"num_beams must be at least 1, not {self.num_beams}")
        if self.top_p < 1 and self.temperature == 0:
            raise ValueError("top_p is read only when sampling: set temperature above 0")
