"""Costs as polynomials of lengths: attention is quadratic in them, everything else at most linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Powers = Sequence[tuple[int, int]]

ONE_LENGTH: Powers = ((0, 0), (1, 0), (2, 0))
"""Terms in the length x alone."""
LENGTH_AND_COUNT: Powers = (*ONE_LENGTH, (0, 1))
"""Terms in the length x, and linear ones in a count y."""
TWO_LENGTHS: Powers = (*LENGTH_AND_COUNT, (0, 2), (1, 1))
"""All terms in the lengths x and y."""


@dataclass(frozen=True)
class Polynomial:
    """A polynomial in two lengths x and y.

    Attributes:
        powers: Exponents of x and y in each term.
        coefficients: One for each term.
    """

    powers: Powers
    coefficients: tuple[float, ...]

    @classmethod
    def through(
        cls, powers: Powers, points: Sequence[tuple[int, int]], values: Sequence[float]
    ) -> Polynomial:
        """Return the polynomial that has the values at the points; there are as many as terms."""
        # Scaled, so that the squares of lengths do not drown the constant.
        scale = np.array([max(x for x, _ in points), max(1, *(y for _, y in points))], dtype=np.float64)
        terms = [[(x / scale[0]) ** i * (y / scale[1]) ** j for i, j in powers] for x, y in points]
        solved = np.linalg.solve(np.array(terms), np.array(values, dtype=np.float64))
        factors = [scale[0] ** i * scale[1] ** j for i, j in powers]
        return cls(tuple(powers), tuple((solved / factors).tolist()))

    @classmethod
    def constant(cls, value: float) -> Polynomial:
        """Return a polynomial that is the same everywhere."""
        return cls(((0, 0),), (value,))

    def __call__(self, x: float, y: float = 0) -> float:
        """Return the value at x and y."""
        return sum(c * x**i * y**j for c, (i, j) in zip(self.coefficients, self.powers, strict=True))
