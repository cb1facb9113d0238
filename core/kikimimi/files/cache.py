"""Where what was computed once, or paid for, is kept for every later run."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return the folder of that name in ``$KIKIMIMI_CACHE``, or in ``~/.cache/kikimimi``."""
    root = os.environ.get("KIKIMIMI_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "kikimimi") / name
