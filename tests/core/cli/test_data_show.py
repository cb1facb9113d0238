"""`kikimimi data show`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def test_a_recipe_and_its_run_show_the_same(cli: Cli, recipe_file: Path, trained: Path) -> None:
    shown = cli("data", "show", recipe_file, "-n", "2")
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[:2] == ["stage asr", "tones: 8 records"]
    assert sum(line[:3] in ("1. ", "2. ") for line in lines) == 2
    assert shown.out.count("[[") == shown.out.count("<|end|>]]") == 2
    assert cli("data", "show", trained, "-n", "2").out == shown.out


def test_tokens_and_seed(cli: Cli, recipe_file: Path) -> None:
    plain = cli("data", "show", recipe_file, "-n", "1").out
    tokens = cli("data", "show", recipe_file, "-n", "1", "--tokens").out
    assert tokens.startswith(plain.rstrip())
    assert " target  <|end|>" in tokens
    seeded = cli("data", "show", recipe_file, "--seed", "3").out
    assert seeded == cli("data", "show", recipe_file, "seed=3").out != cli("data", "show", recipe_file).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "arc"], "no stage is called 'arc'. Did you mean 'asr'? Stages: asr"),
        (["--dataset", "tone"], "Did you mean 'tones'? Datasets: tones"),
        (["--step", "3"], "stage 'asr' has 2 steps; there is no step 3"),
        (["adapter.downsampel=8"], "Did you mean 'downsample'?"),
    ],
)
def test_wrong_requests(cli: Cli, recipe_file: Path, arguments: list[str], message: str) -> None:
    done = cli("data", "show", recipe_file, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_run_is_shown_as_it_is(cli: Cli, trained: Path) -> None:
    done = cli("data", "show", trained, "seed=3")
    assert (done.code, done.out) == (2, "")
    assert f"kikimimi data show {trained / 'recipe.yaml'} seed=3" in done.err
