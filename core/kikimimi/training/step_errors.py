"""What makes a step impossible. All ranks stop together, before any weight changes: one that stopped alone
would leave the others waiting for it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from kikimimi.errors import DataError, KikimimiError


class StepErrors:
    """Gathers what is wrong with one optimiser step on this rank."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._errors: list[KikimimiError] = []
        self._gradient: str | None = None
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
        """Note a gradient that is not finite, told where no other error explains it."""
        if not torch.isfinite(norm):
            self._gradient = (
                f"step {step}: the gradient's norm is {float(norm)}; weights are untouched. "
                f"Records of this step: {', '.join(self._names)}"
            )

    def stop_together(self, *, decide: Callable[[bool], bool], gather: Callable[[Any], list[Any]]) -> None:
        """Raise where anything is wrong on any rank; else begin the next step.

        Raises:
            KikimimiError: The first error of each rank that has any; the same on every rank.
        """
        errors, gradient = self._errors, self._gradient
        self._clear()
        if not decide(bool(errors) or gradient is not None):
            return
        mine = (type(errors[0]), str(errors[0])) if errors else None
        told = gather((mine, gradient))
        found: list[tuple[int, tuple[type[KikimimiError], str]]] = [
            (rank, error) for rank, (error, _) in enumerate(told) if error is not None
        ] or [(rank, (DataError, text)) for rank, (_, text) in enumerate(told) if text is not None]
        _, (kind, text) = found[0]
        if len(told) > 1:
            text = "\n".join(f"rank {rank}: {said}" for rank, (_, said) in found)
        raise kind(text)


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients together, also of sharded ones: the same on every rank."""
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
