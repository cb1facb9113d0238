"""Mixtures: how large each dataset's share of the records is.

Shares are fractions of whole numbers, so that they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

_DIGITS = 12  # of a power: more may differ between machines


def record_shares(
    weights: Sequence[float | None],
    counts: Sequence[int],
    seconds: Sequence[float],
    *,
    by: Literal["samples", "seconds"] = "samples",
    temperature: float = 1.0,
) -> list[Fraction] | None:
    """Return each dataset's share of the records, or None where every record is taken once per epoch.

    A dataset's part of the mixture is proportional to w^(1/T): w is its weight, or where there are no
    weights its size, and T the temperature (as in mT5, https://arxiv.org/abs/2010.11934, section 3.1, with
    alpha = 1/T). Above 1 the parts become more even, and for very large T all the same.

    Args:
        weights: Of each dataset; all have one, or none has.
        counts: How many records each has.
        seconds: How much audio each has, its written text counted, too [s].
        by: Whether parts of the mixture are parts of the records or of the seconds.
        temperature: See above.

    Raises:
        ValueError: Some have weights and others not, or a number is not above 0.
    """
    given = [weight for weight in weights if weight is not None]
    if given and len(given) < len(weights):
        raise ValueError("either every dataset has a weight or none has")
    if temperature <= 0 or any(weight <= 0 for weight in given):
        raise ValueError("weights and temperature must be above 0")
    if not given and temperature == 1:
        return None
    sizes = [float(size) for size in (counts if by == "samples" else seconds)]
    parts = [_power(size, temperature) for size in given or sizes]
    if by == "seconds":
        # Of as many seconds, a dataset of short records gives more of them.
        parts = [
            part * count / Fraction(round(total * 1000), 1000)
            for part, count, total in zip(parts, counts, seconds, strict=True)
        ]
    return [part / sum(parts) for part in parts]


def share_begin(share: Fraction, total: int, epoch: int) -> int:
    """Return how many records of a dataset are behind it when an epoch of `total` records begins.

    Rounded over all epochs together: a share of less than one record per epoch gives one now and then.
    """
    return (epoch * total * share.numerator * 2 + share.denominator) // (2 * share.denominator)


def _power(base: float, temperature: float) -> Fraction:
    if temperature == 1:
        return Fraction(base)
    return Fraction(f"{base ** (1 / temperature):.{_DIGITS}g}")
