"""``kikimimi diff``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cli = Callable[..., Any]
RECIPES = Path(__file__).parents[3] / "recipes"


def test_differences_by_section(cli: Cli, tmp_path: Path) -> None:
    text = (RECIPES / "quickstart.yaml").read_text(encoding="utf-8")
    other = tmp_path / "other.yaml"
    other.write_text(
        text.replace("seed: 0", "seed: 7").replace("log_every: 10", "log_every: 20"), encoding="utf-8"
    )
    done = cli("diff", RECIPES / "quickstart.yaml", other)
    assert done.code == 0
    assert done.out == "options:\n  seed: 0 -> 7\nwhere they run:\n  trainer.log_every: 10 -> 20\n"
    found = json.loads(cli("diff", RECIPES / "quickstart.yaml", other, "--json").out)
    assert found == {
        "differs": {
            "options": [{"item": "seed", "one": 0, "other": 7}],
            "where they run": [{"item": "trainer.log_every", "one": 10, "other": 20}],
        },
        "scores": [],
    }


def test_the_same(cli: Cli) -> None:
    recipe = RECIPES / "quickstart.yaml"
    done = cli("diff", recipe, recipe)
    assert (done.code, done.out) == (0, f"{recipe} and {recipe} mean the same\n")


def test_the_file_of_a_sweep_is_no_recipe(cli: Cli) -> None:
    done = cli("diff", RECIPES / "sweeps" / "adapters.yaml", RECIPES / "quickstart.yaml")
    assert done.code == 2
    assert (
        "is the file of a sweep: sweeps are compared by their folders, such as runs/sweeps/adapters"
        in done.err
    )


def test_what_is_not_there(cli: Cli, tmp_path: Path) -> None:
    done = cli("diff", tmp_path / "no.yaml", RECIPES / "quickstart.yaml")
    assert done.code == 2
    assert "no.yaml" in done.err
