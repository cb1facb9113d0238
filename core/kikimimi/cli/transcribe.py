"""``kikimimi transcribe``."""

from __future__ import annotations


def transcribe() -> None:
    """Not written yet."""
