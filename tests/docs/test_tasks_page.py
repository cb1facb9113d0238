"""The page about tasks names every built-in one, and its example works."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from kikimimi.contracts import registry
from kikimimi_tasks.prompted import Prompted, PromptedConfig

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")


def test_every_task_has_its_row() -> None:
    built_in = {plugin.name for plugin in registry.plugins("task") if plugin.distribution == "kikimimi"}
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == built_in


def test_the_example_is_a_task() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    task = Prompted(PromptedConfig(**yaml.safe_load(example)))
    record = {"text": "んだ。", "language": "ja", "meta": {"dialect": "津軽弁"}}
    assert task.conversation(record, ["0.flac"], None).reference() == "津軽弁"
