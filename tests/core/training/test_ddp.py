from __future__ import annotations

import json
import os
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


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["mlp", "{name: ctc, vocabulary: characters}"])
def test_two_processes_train_like_one(recipe_file: Path, tmp_path: Path, adapter: str) -> None:
    options = [f"adapter={adapter}", "llm.scratch.dropout=0", "--out", str(tmp_path / "runs")]
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
    for found, expected in zip(losses(two), losses(one), strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert len(found) == (1 if adapter == "mlp" else 5)
