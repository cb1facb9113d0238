"""The page of the architecture says what the import rules hold, and names what is there."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
PICTURE = (ROOT / "docs" / "architecture.svg").read_text("utf-8")
WAY = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|", PAGE, re.MULTILINE)


def floors() -> list[list[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    return [layer.split(" | ") for layer in layers]


def test_the_table_lists_every_folder_from_above() -> None:
    listed = re.findall(r"^\| [\w ]*\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert listed == [name for floor in floors() for name in floor]
    core = ROOT / "core" / "kikimimi"
    there = {path.stem for path in core.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert set(listed) == there - {"__init__"}


def test_the_picture_shows_the_same_floors() -> None:
    boxes = re.findall(r'class="box" x="\d+" y="(\d+)".*?\n.*?class="name"[^>]*>(\w+)<', PICTURE)
    drawn: dict[int, list[str]] = {}
    for height, name in boxes:
        drawn.setdefault(int(height), []).append(name)
    assert [drawn[height] for height in sorted(drawn)] == floors()


@pytest.mark.parametrize(("name", "module"), WAY)
def test_the_way_of_a_record_names_what_is_there(name: str, module: str) -> None:
    assert getattr(importlib.import_module(module), name).__module__ == module


def test_the_way_is_whole() -> None:
    assert [name for name, _ in WAY] == [
        "Record",
        "Task",
        "Conversation",
        "Rendered",
        "Sample",
        "Batch",
        "Packed",
        "Scored",
        "Loss",
    ]


def test_the_way_stands_in_the_docstring_of_the_data() -> None:
    rows = re.findall(r"^\| (`?\w+`?) \| `(kikimimi[\w.]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    said = " ".join((importlib.import_module("kikimimi.data").__doc__ or "").split())
    assert said.endswith(" ".join(f"- {name} (`{module}`): {what}" for name, module, what in rows))
