"""Files that are there whole or not at all, whenever the process that writes them is stopped."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the name under which a file is written, and then the file its own; after an error it is removed.

    Args:
        path: The file. What a process that is killed leaves beside it is hidden, and ends in ``.PID.tmp``.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
