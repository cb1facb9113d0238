"""``kikimimi plugins``."""

from __future__ import annotations


def plugins() -> None:
    """Not written yet."""
