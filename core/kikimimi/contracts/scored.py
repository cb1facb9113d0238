"""A packed micro-batch, and what the LLM thinks of its targets."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kikimimi.contracts.component import Padded


@dataclass(frozen=True)
class Packed:
    """Conversations laid end to end with the audio tokens in place.

    Attributes:
        embeddings: (N, D).
        lengths: (B,) positions of each conversation; they add up to N.
        ids: (N,) token ids; -1 at audio positions.
        loss: (N,) bool, true where the token is a target.
    """

    embeddings: Tensor
    lengths: Tensor
    ids: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Scored:
    """What the LLM thinks of the targets.

    Attributes:
        logits: (M, V) at the positions before the targets, and nowhere else.
        targets: (M,) token ids.
        sequence: (M,) the conversation each target belongs to.
        losses: Named auxiliary losses of the adapter.
        counts: What the adapter counted.
        num_positions: N, audio and text.
        tokens: (C, T, D) what the adapter made of the clips, or None where there are none.
    """

    logits: Tensor
    targets: Tensor
    sequence: Tensor
    losses: dict[str, Tensor]
    counts: dict[str, int]
    num_positions: int
    tokens: Padded | None

    def log_probabilities(self, num_sequences: int) -> tuple[Tensor, Tensor]:
        """Return the summed log-probability of each conversation's targets, and how many they are.

        Args:
            num_sequences: B.

        Returns:
            (B,) float32 sums and (B,) float32 numbers of targets.
        """
        logits = self.logits.float()
        of_targets = logits.gather(1, self.targets[:, None])[:, 0] - logits.logsumexp(dim=1)  # (M,)
        sums = of_targets.new_zeros(num_sequences).index_add(0, self.sequence, of_targets)
        counts = torch.bincount(self.sequence, minlength=num_sequences)
        return sums, counts.to(sums.dtype)
