"""The READMEs: their commands exist and are those of CI, their links lead somewhere, their plugin works."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from kikimimi.cli import app
from kikimimi.contracts.registry import KINDS
from kikimimi.recipe import load_recipe
from kikimimi.testing import run_checks

ROOT = Path(__file__).parents[2]
READMES = [ROOT / "README.md", ROOT / "README.ja.md"]
PAGES = [*READMES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CI = ROOT / ".ci" / "run"
MAIN_JOB = "pip install -e '.[quickstart]' && kikimimi quickstart"
RUN_TESTS = "pip install -e '.[test]' && pytest"
CONSOLE = re.compile(r"^\$ (.*)$", re.MULTILINE)
readmes = pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@readmes
def test_one_command_each_for_the_main_job_and_the_tests(page: Path) -> None:
    assert [command for command in CONSOLE.findall(page.read_text("utf-8")) if "pip" in command] == [
        MAIN_JOB,
        RUN_TESTS,
    ]


@pytest.mark.skipif(not CI.is_file(), reason="a source distribution carries no CI")
def test_ci_runs_these_two_commands() -> None:
    text = CI.read_text("utf-8")
    assert f'bash -c "{MAIN_JOB}"' in text
    assert f"\n{RUN_TESTS}\n" in text


def test_both_readmes_lead_to_the_same_pages() -> None:
    english, japanese = (
        set(re.findall(r"\]\((docs/[^)\s]+)\)", page.read_text("utf-8"))) for page in READMES
    )
    assert english == japanese


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]
    headings = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    broken = []
    for link in links:
        file, _, anchor = link.partition("#")
        if file.startswith(("http://", "https://")):
            continue
        fine = (page.parent / file).exists() if file else anchor in headings
        if not fine:
            broken.append(link)
    assert not broken


def test_each_readme_links_to_the_other() -> None:
    assert "](README.ja.md)" in READMES[0].read_text("utf-8")
    assert "](README.md)" in READMES[1].read_text("utf-8")


def commands() -> set[str]:
    found: set[str] = set()

    def walk(command: Any, path: str) -> None:
        inside = getattr(command, "commands", None)
        if inside is None:
            found.add(path)
        for name, inner in (inside or {}).items():
            walk(inner, f"{path} {name}")

    walk(typer.main.get_command(app), "kikimimi")
    return found


@readmes
def test_the_table_of_commands_is_the_cli(page: Path) -> None:
    listed = re.findall(r"^\| `(kikimimi [a-z ]+)` \|", page.read_text("utf-8"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == commands()


@pytest.mark.parametrize("page", [*READMES, ROOT / "docs" / "recipes.md"], ids=lambda page: page.name)
def test_the_commands_shown_exist_and_their_recipes_load(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shown = [line for line in CONSOLE.findall(page.read_text("utf-8")) if line.startswith("kikimimi")]
    assert shown
    for line in shown:
        words = shlex.split(line)
        assert " ".join(words[:2]) in commands(), line
        if words[1] in ("train", "show"):
            load_recipe(words[2], words[3:])


@readmes
def test_the_one_line_that_is_swapped_is_the_quickstarts(page: Path) -> None:
    (diff,) = blocks(page, "diff")
    old, new = (line[1:] for line in diff.splitlines())
    assert old in (ROOT / "recipes" / "quickstart.yaml").read_text("utf-8").splitlines()
    assert set(yaml.safe_load(new)["adapter"]) == {"name", "every"}


def test_the_plugin_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert blocks(READMES[0], "python") == blocks(READMES[1], "python")
    assert blocks(READMES[0], "toml") == blocks(READMES[1], "toml")
    (code,), (entry,) = blocks(READMES[0], "python"), blocks(READMES[0], "toml")
    found = re.fullmatch(r'\[project\.entry-points\."(.+)"\]\nskip = "(.+):(.+)"\n', entry)
    assert found is not None
    group, module, name = found.groups()
    assert group == KINDS["adapter"].group
    (tmp_path / f"{module}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module, loaded)
    spec.loader.exec_module(loaded)
    results = run_checks("adapter", getattr(loaded, name))
    assert results
    assert [f"{result.name}: {result.error}" for result in results if result.error is not None] == []
