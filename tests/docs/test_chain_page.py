"""The page about the chain: its numbers and commands are those of the quickstart, and its grammar works."""

from __future__ import annotations

import re
from pathlib import Path

from kikimimi.quickstart import CHAIN
from kikimimi.recipe import load_recipe
from kikimimi.recipe.resolve import shipped_recipe
from kikimimi.synth.grammar import Grammar

PAGE = (Path(__file__).parents[2] / "docs" / "chain.md").read_text(encoding="utf-8")


def test_the_command_that_makes_the_data() -> None:
    assert f"$ {CHAIN.synth_command}\n" in PAGE


def test_sizes_of_the_data() -> None:
    assert CHAIN.dialogue is not None
    rows = {line.split(" |")[0]: line.split("|")[3:5] for line in PAGE.splitlines() if line.startswith("| `")}
    counts = {name: [cell.strip().replace(",", "") for cell in cells] for name, cells in rows.items()}
    assert counts["| `train`, `held_out`"] == [str(CHAIN.sentences), str(CHAIN.held_out)]
    assert counts["| `instructions`, `held_out_instructions`"] == [
        str(CHAIN.dialogue.instructions),
        str(CHAIN.held_out),
    ]
    assert counts["| `preferences`"] == [str(CHAIN.dialogue.preferences), ""]
    assert counts["| `texts`"] == [str(CHAIN.dialogue.texts), ""]


def test_the_stages_are_the_recipes() -> None:
    recipe = load_recipe(shipped_recipe(CHAIN.recipe))
    section = PAGE.partition("## Stages\n")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section, re.MULTILINE)
    parts = {"adapter": "adapter", "llm": "LLM"}
    assert told == [
        (name, ", ".join(parts[part] for part in stage.train)) for name, stage in recipe.stages.items()
    ]


def test_the_grammar_shown_makes_requests(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    answers = {exchange.answer for exchange in Grammar.load(str(path)).split(3, 1, 0, "request").train}
    assert answers == {"横浜は神奈川県にあります。", "神戸は兵庫県にあります。"}
