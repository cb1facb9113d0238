"""Try mutations by hand: ``python -m tests.fuzz TARGET [FIRST [LAST]]`` from the root."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .harness import run
from .targets import TARGETS


def main(name: str, first: str = "0", last: str = "") -> None:
    """Print what came of the mutations of a target."""
    (target,) = [target for target in TARGETS if target.name == name]
    numbers = range(int(first), int(last) if last else target.share)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(target, numbers, Path(folder))
    print(*outcome.failures, sep="\n\n")
    print(dict(outcome.counts))


main(*sys.argv[1:])
