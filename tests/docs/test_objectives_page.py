"""The page of objectives: every example is a recipe's, and every objective is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kikimimi.contracts import registry
from kikimimi.recipe import load_recipe

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
RECIPE = """
name: page
encoder: {name: whisper, weights: random}
adapter: {name: cif}
llm: {name: llama}
stages:
  one:
    train: {adapter: {}}
    data: {x: {shards: x.tar, task: asr}}
    steps: 1
"""


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_recipes(example: str, tmp_path: Path) -> None:
    path = tmp_path / "page.yaml"
    path.write_text(RECIPE + "".join(f"    {line}\n" for line in example.splitlines()), encoding="utf-8")
    assert f"name: {load_recipe(path).stages['one'].objective.name}" in example


def test_every_objective_has_a_chapter() -> None:
    chapters = re.findall(r"^## `(\w+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    shipped = [p.name for p in registry.plugins("objective") if p.distribution == "kikimimi"]
    assert sorted(chapters) == sorted(shipped)
    assert len(EXAMPLES) == 6
