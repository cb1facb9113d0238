"""One rank of two: trains run folders one after the other. Started by tests, twice at once.

Arguments: what goes wrong (`loss`: that of one rank in step 8 is not a number; `disk`: one rank cannot write
the checkpoint of step 12; or nothing), then STRATEGY:FOLDER for each run. An error is told in one line.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

from kikimimi.errors import KikimimiError
from kikimimi.run_folder import RunFolder
from kikimimi.training import checkpoint
from kikimimi.training.module import StageModule
from kikimimi.training.train import train

RANK = int(os.environ["LOCAL_RANK"])


def spoil_loss() -> None:
    real = StageModule._loss

    def spoilt(self: StageModule, batch: Any) -> Any:
        loss, made = real(self, batch)
        bad = RANK == 1 and self.trainer.global_step == 7
        return loss * float("nan") if bad else loss, made

    StageModule._loss = spoilt  # type: ignore[method-assign]


def spoil_disk() -> None:
    real = checkpoint._sync

    def full(path: Path) -> None:
        # Of a sharded run a piece, which the second rank writes; of another one the weights.
        if "step-00000012" in str(path) and path.name in (
            "weights.safetensors",
            "resume.rank1-of-2.safetensors",
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path)

    checkpoint._sync = full


what, *runs = sys.argv[1:]
if what:
    {"loss": spoil_loss, "disk": spoil_disk}[what]()
for run in runs:
    strategy, _, path = run.partition(":")
    try:
        train(RunFolder.open(Path(path), ["trainer.devices=2", f"trainer.strategy={strategy}"]))
    except KikimimiError as error:
        print(f"FAILED {type(error).__name__}: {error}", file=sys.stderr)
