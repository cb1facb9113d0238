"""The reference pages: what is generated is up to date, what is shown works, nothing is left out."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import kikimimi
import kikimimi.testing
from kikimimi.contracts.registry import KINDS
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.recipe.chosen import Chosen, LoRA

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RECIPES = (DOCS / "recipes.md").read_text("utf-8")
DEPENDENCIES = (DOCS / "dependencies.md").read_text("utf-8")
SNIPPETS: list[str] = re.findall(r"^```yaml\n(.*?)^```$", RECIPES, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def generate() -> Any:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name", ["recipes.md", "commands.md", "names.md", "systems.md", "data.md", "performance.md"]
)
def test_generated_parts_are_up_to_date(generate: Any, name: str) -> None:
    page = DOCS / name
    expected = generate.updated(page, generate.PAGES[name]())
    assert page.read_text("utf-8") == expected, "run: make docs"


@pytest.mark.parametrize("kind", KINDS)
def test_pages_of_plugins_are_up_to_date_and_say_what_each_type_is(generate: Any, kind: str) -> None:
    page = DOCS / "plugins" / f"{kind}.md"
    found = page.read_text("utf-8")
    assert found == generate.updated(page, generate.plugin_page(kind)), "run: make docs"
    assert "```text\n\n```" not in found


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("voice", "speak(text: str, *, speed: float = 1.0, semitones: float = 0.0)"),
        ("objective", "- `scored: Scored`: The model's opinion of every target"),
        ("objective", "One of `all`, `last`: which of the assistant's turns are targets."),
        ("objective", "`Loss(value: Tensor, parts: Mapping[str, Tensor] = ...,"),
        ("llm", "| `num_beams` | a whole number (at least 1) | `1` |"),
        ("llm", "- `decode(ids: Sequence[int]) -> str`: Return the text of ids."),
        ("llm", "### `kikimimi.LLMContext`"),
        ("task", "`TextPart(text: str)`"),
    ],
)
def test_pages_of_plugins_say_what_is_in_a_type(kind: str, said: str) -> None:
    assert said in (DOCS / "plugins" / f"{kind}.md").read_text("utf-8")


def test_every_public_name_is_there_with_its_words() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", (DOCS / "names.md").read_text("utf-8"), re.MULTILINE)
    assert {name for name, _ in rows} == {*dir(kikimimi), *dir(kikimimi.testing)}
    assert not [name for name, words in rows if len(words) < 5]


def sections(cls: type[Any]) -> Iterator[type[Any]]:
    yield cls
    for annotation in get_type_hints(cls).values():
        for member in (annotation, *get_args(annotation)):
            if dataclasses.is_dataclass(member) and isinstance(member, type) and member is not Chosen:
                yield from sections(member)


def test_every_section_of_the_schema_is_described(generate: Any) -> None:
    assert set(generate.SECTIONS) == {*sections(Recipe), LoRA}


def test_every_option_has_a_description(generate: Any) -> None:
    for text in (generate.recipe_reference(), generate.command_reference(), generate.layout_reference()):
        rows = [line for line in text.splitlines() if line.startswith("| `")]
        assert len(rows) > 20
        assert not [row for row in rows if row.split(" | ")[-1].strip("| ") == ""]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_recipes_shown_load(snippet: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "recipes" / "quickstart.yaml", tmp_path)
    if "extends:" not in snippet:
        snippet = f"extends: quickstart.yaml\nname: shown\n{snippet}"
    (tmp_path / "shown.yaml").write_text(snippet, encoding="utf-8")
    load_recipe(tmp_path / "shown.yaml")


def test_what_the_page_says_of_changes() -> None:
    quickstart = ROOT / "recipes" / "quickstart.yaml"
    assert load_recipe(quickstart).adapter.config.hidden_dim == 512
    swapped = load_recipe(quickstart, ["adapter.pool=mean", "adapter=mlp"]).adapter.config
    assert (swapped.pool, swapped.hidden_dim) == ("mean", None)
    assert (
        not load_recipe(quickstart, ["evaluate.held_out.baselines.whisper-base=null"])
        .evaluate["held_out"]
        .baselines
    )


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    requirements = [*project["build-system"]["requires"], *(line for group in groups for line in group)]
    names = {re.split(r"[\[<>=!~ ]", line)[0] for line in requirements} - {"kikimimi"}
    explained = set(re.findall(r"`([\w.-]+)`", DEPENDENCIES))
    assert names - explained == set()
    assert len(names) > 25
    # A bound that changes has to be looked at there.
    rows = {row.split("`")[1]: row for row in DEPENDENCIES.splitlines() if row.startswith("| `")}
    for line in project["project"]["dependencies"]:
        name, *bounds = re.split(r"[<>=!,]+", re.sub(r"\[.*\]", "", line))
        assert bounds
        for bound in bounds:
            assert re.search(rf"\b{re.escape(bound)}(?![\d.]*\d)", rows[name]), f"{line}: {rows[name]}"


def test_defaults_of_methods_are_whole(generate: Any) -> None:
    assert "speak(text: str, *, speed: float = 1.0, semitones: float = 0.0)" in generate.plugin_page("voice")
