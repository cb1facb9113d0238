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


def test_another_metric_and_another_recipe(cli: Cli, run: Path, recipe_file: Path) -> None:
    """What was predicted is scored anew, and not predicted again."""
    assert cli("evaluate", run).code == 0
    done = cli("evaluate", run, "evaluate.held_out.metric=wer")
    assert done.code == 0
    assert "WER" in done.out
    assert done.err == f"report: {run / 'report.html'}\n"  # no progress: nothing was predicted
    other = recipe_file.with_name("other.yaml")
    other.write_text(recipe_file.read_text().replace("  held_out: {shards", "  fresh: {shards"))
    done = cli("evaluate", run, "--from", other, "evaluate.fresh.generate.max_new_tokens=2", "--json")
    assert list(json.loads(done.out)) == ["fresh"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "changed after training: metric.name wer" in page
    assert "added after training" in page
    assert cli("evaluate", run, "--only", "fresh").code == 0


def test_what_was_trained_cannot_be_changed(cli: Cli, run: Path) -> None:
    done = cli("evaluate", run, "stages.asr.steps=3")
    assert (done.code, done.out) == (2, "")
    assert (
        "(stages.asr.steps: there 2, here 3). Only evaluate.* and guards.* can be added or changed here"
        in done.err
    )
    done = cli("evaluate", run, "evaluate.heldout.metric=wer")
    assert done.code == 2
    assert "there is no evaluation 'heldout'. Did you mean 'held_out'?" in done.err
