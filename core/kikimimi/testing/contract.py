"""What a check raises, and the two ways to state an expectation."""

from __future__ import annotations

from torch import Tensor

TOLERANCE = 1e-5
"""Largest difference between two ways to compute the same [relative to the largest value, or to 1]."""


class ContractError(AssertionError):
    """A component breaks its contract; the message says what was expected and what was found."""


def expect(holds: bool, message: str) -> None:
    """Raise a `ContractError` with the message unless the condition holds."""
    if not holds:
        raise ContractError(message)


def expect_close(found: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Expect two tensors of one shape to hold the same finite numbers.

    Args:
        found: What came out.
        expected: What had to.
        what: The start of the message, such as ``clip 2 alone and in a batch``.
        tolerance: Largest difference, relative to the largest expected value where that is above 1.

    Raises:
        ContractError: They differ.
    """
    expect(
        found.shape == expected.shape,
        f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}",
    )
    expect_finite(found, what)
    if found.numel() == 0:
        return
    allowed = tolerance * max(1.0, float(expected.detach().abs().max()))
    difference = float((found.detach().float() - expected.detach().float()).abs().max())
    expect(
        difference <= allowed,
        f"{what}: expected the same values, found a difference of {difference:.2g} (allowed: {allowed:.2g})",
    )


def expect_finite(found: Tensor, what: str) -> None:
    """Expect a tensor without NaN and infinity.

    Raises:
        ContractError: It holds one.
    """
    wrong = int((~found.isfinite()).sum())
    expect(wrong == 0, f"{what}: expected finite values, found {wrong} of {found.numel()} NaN or infinite")
