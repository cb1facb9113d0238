"""The page on data: what it shows works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from kikimimi.contracts import registry
from kikimimi.contracts.layout import Row, Segment
from kikimimi.recipe.build import Builder
from kikimimi.recipe.merge import apply_overrides
from kikimimi.recipe.shape import Pluggable
from kikimimi.recipe.source import Entry, Problems
from kikimimi_layouts.fields import load_fields
from kikimimi_layouts.manifest import Manifest

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
PART = PAGE.partition("## Getting data in\n")[2].partition("\n## ")[0]


def blocks(kind: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{kind}\n(.*?)^```$", PART, re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.mark.parametrize("text", blocks("yaml"), ids=range(len(blocks("yaml"))))
def test_files_of_fields_load(text: str, tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(text, encoding="utf-8")
    assert load_fields(str(tmp_path / "shown.yaml")).columns()


def test_the_manifest_of_conversations_is_one(tmp_path: Path) -> None:
    (text,) = blocks("json")
    (tmp_path / "shown.jsonl").write_text(text, encoding="utf-8")
    layout = Manifest(str(tmp_path / "shown.jsonl"), Manifest.Config())
    rows = [row for row in layout.rows(0, len(layout)) if isinstance(row, Row)]
    assert [len(row.clips) for row in rows] == [1, 1, 0, 1]
    assert json.loads(text.splitlines()[1])["chosen"] == rows[1].record["chosen"]


def test_the_forms_of_other_tools_are_read(tmp_path: Path) -> None:
    (text,) = blocks("jsonl")
    (tmp_path / "shown.jsonl").write_text(text, encoding="utf-8")
    layout = Manifest(str(tmp_path / "shown.jsonl"), Manifest.Config())
    rows = list(layout.rows(0, len(layout)))
    assert [row.clips for row in rows if isinstance(row, Row)] == [
        (tmp_path / "clips/1.wav",),
        (tmp_path / "clips/1.wav", tmp_path / "clips/2.wav"),
        (Segment(tmp_path / "meeting.flac", 62.5, 8.0, 1),),
    ]


@pytest.mark.parametrize("line", [line for text in blocks("sh") for line in text.splitlines()])
def test_commands_have_layouts_and_options_that_are_there(line: str) -> None:
    words = shlex.split(line)
    assert words[:3] == ["kikimimi", "data", "pack"]
    name = words[words.index("--layout") + 1] if "--layout" in words else None
    if name is None:
        name = "common_voice" if "cv-corpus" in line else "manifest"
    assert name in registry.names("layout")
    options = [word for word in words if "=" in word]
    problems, shape = Problems(), Pluggable("layout")
    tree = Entry({"name": Entry(name, "page", name)}, "page")
    Builder(problems).build(shape, apply_overrides(tree, options, shape, problems), "", "")
    problems.raise_any()


def test_every_built_in_layout_is_described() -> None:
    named = re.findall(r"^#### Layout `(\w+)`$", PART, re.MULTILINE)
    assert named == [p.name for p in registry.plugins("layout") if p.distribution == "kikimimi"]
