"""``kikimimi quickstart``."""

from __future__ import annotations


def quickstart() -> None:
    """Not written yet."""
