from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def losses(path: Path) -> list[float]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_two_processes_train_like_one(recipe_file: Path, tmp_path: Path) -> None:
    options = ["llm.scratch.dropout=0", "--out", str(tmp_path / "runs")]
    ddp = ["trainer.devices=2", "trainer.strategy=ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for extra in ([], ddp):
        subprocess.run(
            [sys.executable, "-m", "kikimimi.cli", "train", str(recipe_file), *extra, *options],
            check=True,
            env=environment,
            timeout=240,
        )
    one, two = sorted((tmp_path / "runs").iterdir(), key=lambda path: len(path.name))
    assert len(losses(one)) == 8
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
