"""`kikimimi evaluate`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "small"))


def test_table_report_and_json(cli: Cli, run: Path) -> None:
    done = cli("evaluate", run)
    assert done.code == 0
    assert done.err.endswith(f"report: {run / 'report.html'}\n")
    assert "normaliser: none" in done.out
    written = json.loads((run / "evaluations" / "held_out" / "scores.json").read_text())["small"]
    lines = done.out.splitlines()
    row = lines[next(i for i, line in enumerate(lines) if "held_out" in line) + 1]
    for cell in ("small", "CER", f"{written['cer']:.2f} %", str(written["count"])):
        assert cell in row
    assert max(map(len, done.out.splitlines())) <= 80
    assert (run / "report.html").read_text(encoding="utf-8").count("<audio") == 3
    again = cli("evaluate", run, "--json")
    written.pop("seconds")
    assert json.loads(again.out) == {"held_out": {"small": written}}


def test_only(cli: Cli, run: Path) -> None:
    assert cli("evaluate", run, "--only", "held_out").code == 0
    done = cli("evaluate", run, "--only", "heldout")
    assert (done.code, done.out) == (2, "")
    assert (
        "the recipe has no evaluation 'heldout'. Did you mean 'held_out'? Evaluations: held_out" in done.err
    )


def test_what_is_no_trained_run(cli: Cli, run: Path, recipe_file: Path, tmp_path: Path) -> None:
    assert cli("evaluate", tmp_path / "none").code == 2
    done = cli("evaluate", recipe_file)
    assert done.code == 2
    assert "is a file. A run folder is what 'kikimimi train RECIPE.yaml' makes" in done.err
    shutil.rmtree(run / "weights")
    shutil.rmtree(run / "checkpoints")
    done = cli("evaluate", run)
    assert done.code == 2
    assert f"nothing was trained yet. Go on with: kikimimi train {run}" in done.err


def test_held_out_data_that_is_gone(cli: Cli, run: Path, recipe_file: Path) -> None:
    recipe = run / "recipe.yaml"
    held = next(
        line.split(": ")[1]
        for line in recipe.read_text().splitlines()
        if line.strip().endswith("held-000000.tar")
    )
    recipe.write_text(recipe.read_text().replace(held, "gone/*.tar"))
    done = cli("evaluate", run)
    assert done.code == 2
    assert "gone/*.tar: nothing matches gone/*.tar" in done.err
