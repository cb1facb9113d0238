"""How an LLM generates text. Without torch, so that recipes can be read without it."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le

from kikimimi.contracts.options import NonNegativeFloat, Options, PositiveInt


@dataclass(kw_only=True, frozen=True)
class Generation(Options):
    """How to generate text."""

    max_new_tokens: PositiveInt = 256
    """Longest answer [tokens]."""
    temperature: NonNegativeFloat = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Nucleus: sample from the most probable tokens that together reach this probability."""
    num_beams: PositiveInt = 1
    """Beams of beam search; 1 is none."""

    def __post_init__(self) -> None:
        if self.top_p < 1 and self.temperature == 0:
            raise ValueError("top_p is read only when sampling: set temperature above 0, or top_p to 1")
