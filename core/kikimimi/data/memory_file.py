"""Bytes as a file that C code reads and writes by itself.

libsndfile also takes any object of Python's with `read` and `seek`, and calls back for every block. What a
signal raises in such a call is lost, and so is the clip: nothing stops, and a good clip is taken for a broken
one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast


@contextmanager
def memory_file(content: bytes = b"") -> Iterator[int]:
    """Open a file that has no name and is gone in the end: in memory where the system knows such files.

    Args:
        content: What it holds.

    Yields:
        Its descriptor, at the beginning.
    """
    with (
        os.fdopen(os.memfd_create("kikimimi"), "w+b", buffering=0)
        if hasattr(os, "memfd_create")
        else tempfile.TemporaryFile(buffering=0)
    ) as file:
        left = memoryview(content)
        while left:
            left = left[cast(int, file.write(left)) :]  # the system takes 2 GiB at a time
        file.seek(0)
        yield file.fileno()


def whole(descriptor: int) -> bytes:
    """Return all that a memory file holds."""
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        return file.read()
