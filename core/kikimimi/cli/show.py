"""``kikimimi show``."""

from __future__ import annotations


def show() -> None:
    """Not written yet."""
