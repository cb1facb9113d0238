"""One rank of two: trains run folders as it is told. Started by tests, twice at once.

Each line of its input is a JSON object: `strategy` and `run`, the `cache` of features, and what goes wrong,
`spoil` (`loss`: that of one rank in step 8 is not a number; `disk`: one rank cannot write the checkpoint of
step 12; or nothing; `draws` spoils nothing, and writes down what each micro-batch would draw). It answers
each with a line: `done`, or the error.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout

from kikimimi.errors import KikimimiError
from kikimimi.files.writing import sync
from kikimimi.run.folder import RunFolder
from kikimimi.training.module import Evaluated, StageModule
from kikimimi.training.state import checkpoint
from kikimimi.training.train import train

RANK = int(os.environ["LOCAL_RANK"])
EVALUATE, STEP, SYNC = StageModule._evaluate, StageModule.training_step, sync


def spoilt_loss(self: StageModule, *given: Any) -> Evaluated:
    made = EVALUATE(self, *given)
    bad = RANK == 1 and self.trainer.global_step == 7
    return replace(made, loss=made.loss * float("nan")) if bad else made


def spoilt_sync(path: Path) -> None:
    # Of a sharded run a piece, which the second rank writes; of another one the weights.
    if "step-00000012" in str(path) and path.name in (
        "weights.safetensors",
        "resume.rank1-of-2.safetensors",
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    SYNC(path)


def noted_draws(self: StageModule, given: Any, index: int) -> Tensor:
    """Write down what this rank is about to draw, without drawing it."""
    step = self.trainer.global_step
    assert self.model.encoder.augmentation is not None
    with torch.random.fork_rng(devices=[]):
        dropped = dropout(torch.ones(64)).tolist()
        masked = self.model.encoder.augmentation(torch.rand(1, 80, 100), [100]).flatten().tolist()
    drawn = [step, hash(tuple(dropped)), hash(tuple(masked))]
    with Path(os.environ["DRAWS"], f"{RANK}-of-{self.trainer.world_size}").open("a") as file:
        print(json.dumps(drawn), file=file)
    return STEP(self, given, index)


def answer(strategy: str, run: str, cache: str, spoil: str) -> str:
    os.environ["KIKIMIMI_CACHE"] = cache
    StageModule._evaluate = spoilt_loss if spoil == "loss" else EVALUATE  # type: ignore[method-assign, assignment]
    checkpoint.sync = spoilt_sync if spoil == "disk" else SYNC  # type: ignore[attr-defined]
    StageModule.training_step = noted_draws if spoil == "draws" else STEP  # type: ignore[method-assign]
    os.environ["DRAWS"] = run
    try:
        train(RunFolder.open(Path(run), ["trainer.devices=2", f"trainer.strategy={strategy}"]))
    except KikimimiError as error:
        return f"{type(error).__name__}: {error}"
    return "done"


answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    print(json.dumps(answer(**json.loads(line))), file=answers, flush=True)
