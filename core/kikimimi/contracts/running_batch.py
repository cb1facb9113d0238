"""Answers that grow together, a token at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kikimimi.contracts.generation import Generation

if TYPE_CHECKING:
    from torch import Tensor


class RunningBatch(ABC):
    """Prompts that an LLM continues together; rows enter and leave between two tokens.

    Who holds it chooses the tokens. The logits of a row are those that it would have alone, whoever shares
    the batch with it.
    """

    @abstractmethod
    def takes(self, positions: int, generation: Generation) -> bool:
        """Whether a prompt of so many positions can be continued here; if not, `LLM.generate` answers it."""

    @abstractmethod
    def enter(self, prompts: Sequence[Tensor]) -> Tensor:
        """Read prompts; their rows stand behind those that are there.

        Args:
            prompts: (L_i, D) embeddings of each, n of them.

        Returns:
            (n, V) fp32 logits of the first token of each answer.
        """

    @abstractmethod
    def step(self, ids: Tensor) -> Tensor:
        """Read a further token of each row.

        Args:
            ids: (B,) int64, in the order of the rows.

        Returns:
            (B, V) fp32 logits of the tokens that follow.
        """

    @abstractmethod
    def keep(self, rows: Sequence[int]) -> None:
        """Let the other rows leave.

        Args:
            rows: Numbers of those that stay, ascending; they are counted anew in this order.
        """

    @abstractmethod
    def ended(self, ids: Sequence[int]) -> list[int] | None:
        """Return the ids of an answer without those that end it; None where it goes on.

        Args:
            ids: All ids of the answer so far.
        """
