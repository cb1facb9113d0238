"""A run goes on with another number of processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kikimimi.run.folder import RunFolder
from kikimimi.training.train import train

from .conftest import Make, Training, assert_same, rewind


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(make_run: Make, conversations: str) -> None:
    """From one process to two and back: the same global batches. Some hold text alone: no rank waits."""
    run = make_run(
        "run",
        f"stages.asr.data={{chat: {{shards: {conversations}, task: chat}}}}",
        "stages.asr.batch={seconds: 8, global: 2}",
        "llm.scratch.dropout=0",
    )
    train(run)
    whole = Training.curve(run.path)
    assert Training.steps(run.path) == 8
    rewind(run, 3)
    on_two = ["trainer.devices=2", "trainer.strategy=ddp"]
    subprocess.run(
        [sys.executable, "-m", "kikimimi.cli", "train", run.path, *on_two],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert_same(Training.curve(run.path), whole)
    rewind(run, 6)
    train(RunFolder.open(run.path))
    assert_same(Training.curve(run.path), whole)
