"""What is checked of every encoder's sizes, those of a model with random weights."""

from __future__ import annotations

from typing import Any


def check_positive(sizes: Any, *names: str) -> None:
    """Check that the fields of these names are at least 1.

    Raises:
        ValueError: One is not.
    """
    for name in names:
        if getattr(sizes, name) < 1:
            raise ValueError(f"sizes.{name} must be at least 1, not {getattr(sizes, name)}")


def check_divisors(sizes: Any, *names: str) -> None:
    """Check that the fields of these names divide the width, `sizes.dim`.

    Raises:
        ValueError: One does not.
    """
    for name in names:
        if sizes.dim % getattr(sizes, name):
            raise ValueError(f"sizes.{name} ({getattr(sizes, name)}) must divide sizes.dim ({sizes.dim})")


def check_read(weights: str, sizes: Any | None) -> None:
    """Check that the option `sizes` of an encoder's config is read.

    Raises:
        ValueError: It is set, and the weights come with sizes of their own.
    """
    if weights != "random" and sizes is not None:
        raise ValueError(f"sizes is read only with weights: random, not with {weights!r}")
