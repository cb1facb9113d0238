"""A run goes on with another number of processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kikimimi.run_folder import RunFolder
from kikimimi.training.train import train

from .conftest import Make


def losses(path: Path) -> list[list[float]]:
    """The loss of each step and its parts."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [
        [value for name, value in line.items() if name.startswith("loss")] for line in lines if "loss" in line
    ]


def rewind(run: Path, step: int) -> None:
    """Put a finished run back to how a kill after that step's checkpoint leaves it."""
    shutil.rmtree(run / "weights")
    for folder in (run / "checkpoints" / "asr").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)


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
    whole = losses(run.path)
    assert len(whole) == 8
    rewind(run.path, 3)
    subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "kikimimi.cli",
                "train",
                run.path,
                "trainer.devices=2",
                "trainer.strategy=ddp",
            )
        ],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert losses(run.path) == [pytest.approx(step, rel=1e-5, abs=1e-5) for step in whole]
    rewind(run.path, 6)
    train(RunFolder.open(run.path))
    assert losses(run.path) == [pytest.approx(step, rel=1e-5, abs=1e-5) for step in whole]
