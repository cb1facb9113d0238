from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def losses(path: Path) -> list[list[float]]:
    """The loss of each step, its parts, and what the adapter counted."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [
        [value for name, value in line.items() if name.startswith(("loss", "count/"))]
        for line in lines
        if "loss" in line
    ]


DDP = ("trainer.devices=2", "trainer.strategy=ddp")


def kikimimi_train(*arguments: object) -> None:
    subprocess.run(
        [sys.executable, "-m", "kikimimi.cli", "train", *map(str, arguments)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )


@pytest.mark.slow
def test_counts_of_two_processes_are_those_of_one(recipe_file: Path, tmp_path: Path) -> None:
    adapter = "{name: ctc, vocabulary: characters}"
    options = [f"adapter={adapter}", "llm.scratch.dropout=0", "--out", str(tmp_path / "runs")]
    for extra in ((), DDP):
        kikimimi_train(recipe_file, *extra, *options)
    one, two = sorted((tmp_path / "runs").iterdir(), key=lambda path: len(path.name))
    assert len(losses(one)) == 8
    for found, expected in zip(losses(two), losses(one), strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert len(found) == 6


def rewind(run: Path, step: int) -> None:
    """Put a finished run back to how a kill after that step's checkpoint leaves it."""
    shutil.rmtree(run / "weights")
    for folder in (run / "checkpoints" / "asr").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(
    recipe_file: Path, tmp_path: Path, conversations: str
) -> None:
    """From one process to two and back: the same global batches. Some hold text alone: no rank waits."""

    data = f"stages.asr.data={{chat: {{shards: {conversations}, task: chat}}}}"
    options = [data, "stages.asr.batch={seconds: 8, global: 2}", "llm.scratch.dropout=0"]
    kikimimi_train(recipe_file, *options, "--out", tmp_path / "runs")
    (run,) = (tmp_path / "runs").iterdir()
    whole = losses(run)
    assert len(whole) == 8
    for step, hardware in ((3, DDP), (6, ())):
        rewind(run, step)
        kikimimi_train(run, *hardware)
        for found, expected in zip(losses(run), whole, strict=True):
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
