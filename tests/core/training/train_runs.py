"""One rank of two: trains run folders one after the other. Started by tests, twice at once."""

from __future__ import annotations

import sys
from pathlib import Path

from kikimimi.errors import KikimimiError
from kikimimi.run_folder import RunFolder
from kikimimi.training.train import train

strategy, *paths = sys.argv[1:]
for path in paths:
    try:
        train(RunFolder.open(Path(path), ["trainer.devices=2", f"trainer.strategy={strategy}"]))
    except KikimimiError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
