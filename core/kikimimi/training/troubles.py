"""What makes a step impossible. All ranks stop together, before any weight changes: one that stopped alone
would leave the others waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from kikimimi.errors import DataError, KikimimiError


class Troubles:
    """Gathers the troubles of one optimiser step on this rank."""

    def __init__(self) -> None:
        self._errors: list[KikimimiError] = []
        self._names: list[str] = []

    def see(self, names: Sequence[str]) -> None:
        """Note which records are part of the step."""
        self._names.extend(names)

    def add(self, error: KikimimiError) -> None:
        """Add an error; the step goes on until all ranks can stop."""
        self._errors.append(error)

    def check_loss(self, step: int, loss: Tensor, names: Sequence[str]) -> None:
        """Add a loss that is not finite, with the records of its micro-batch."""
        if not torch.isfinite(loss):
            self.add(
                DataError(
                    f"step {step}: the loss is {float(loss.detach())}; weights are untouched. "
                    f"Records of this micro-batch: {', '.join(names)}"
                )
            )

    def check_gradient(self, step: int, norm: Tensor) -> None:
        """Add a gradient that is not finite, unless a loss explains it."""
        if not self._errors and not torch.isfinite(norm):
            self.add(
                DataError(
                    f"step {step}: the gradient's norm is {float(norm)}; weights are untouched. "
                    f"Records of this step: {', '.join(self._names)}"
                )
            )

    def stop_together(self, *, decide: Callable[[bool], bool], gather: Callable[[Any], list[Any]]) -> None:
        """Raise where there is trouble on any rank; else begin the next step.

        Args:
            decide: Returns whether it is true on any rank.
            gather: Returns what every rank gave, in order.

        Raises:
            KikimimiError: The first trouble of each rank that has any.
        """
        errors, self._errors, self._names = self._errors, [], []
        if not decide(bool(errors)):
            return
        told = gather(str(errors[0]) if errors else None)
        if len(told) == 1:
            raise errors[0]
        lines = [f"rank {number}: {text}" for number, text in enumerate(told) if text is not None]
        raise (type(errors[0]) if errors else KikimimiError)("\n".join(lines))


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients together, also of sharded ones: the same on every rank."""
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
