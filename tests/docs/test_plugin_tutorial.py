"""The tutorial is followed to the letter: its files are written, its commands run, its outputs compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kikimimi.cli import app
from kikimimi.inspect.plugin import summary
from kikimimi.recipe import load_recipe, to_yaml
from kikimimi.testing import checks, tiny_recipe, write_shard

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "plugin-tutorial.md"
TEXT = TUTORIAL.read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = [
    block.removeprefix("$ ").split("\n$ ")
    for block in re.findall(r"^```console\n(.*?)\n```$", TEXT, re.MULTILINE | re.DOTALL)
]
INSTALL = "--quiet --no-deps --no-build-isolation --disable-pip-version-check --target site"
LIST = re.compile(r"(<!-- generated.*?-->\n)(.*)(<!-- end -->)", re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files, installed, and a quickstart.yaml that trains for two steps."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name, content in FILES.items():
        (folder / name).write_text(content, encoding="utf-8")
    tiny = tiny_recipe(load_recipe(ROOT / "recipes" / "quickstart.yaml"), write_shard(folder / "data"))
    (folder / "quickstart.yaml").write_text(to_yaml(tiny), encoding="utf-8")
    assert COMMANDS[0][0] == "pip install ."
    run(f"pip install {INSTALL} .", folder)
    return folder


def run(command: str, folder: Path) -> str:
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "site"),
        "COLUMNS": "200",
    }
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_tutorial_holds_what_it_promises() -> None:
    assert list(FILES) == ["kikimimi_average.py", "pyproject.toml", "test_average.py", "recipe.yaml"]
    assert TEXT.count("```") == 2 * (len(FILES) + len(COMMANDS))


@pytest.mark.slow
def test_its_commands_do_what_it_says(
    folder: Path,
    with_packages: Callable[[Path], None],
    run_pytest: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All in this process: starting one takes longer than what it does."""
    steps = [step for block in COMMANDS for step in block]
    assert len(steps) == 6
    with_packages(folder / "site")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    for step in steps[1:]:  # the first installs the package, see `folder`
        command, *expected = step.split("\n")
        program, *arguments = command.split()
        if program == "pytest":
            assert run_pytest(folder / "site", *(folder / name for name in arguments)) > 0
            continue
        assert program == "kikimimi"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{command}\n{done.output}"
        output = done.stdout
        for line in expected:
            assert line in output.split("\n"), f"{command} prints no line {line!r}:\n{output}"


def test_the_one_line_form_of_the_recipe(
    folder: Path, with_packages: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_packages(folder / "site")
    monkeypatch.chdir(folder)
    (changes,) = re.findall(r"`kikimimi train (quickstart\.yaml [^`]*)`", TEXT)
    path, *overrides = changes.split()
    assert load_recipe(path, [*overrides, "name=average"]) == load_recipe("recipe.yaml")


def listing() -> str:
    titles = {
        "All of them": checks.FOR_ALL,
        "Encoders and adapters": checks.FOR_PADDED,
        "Encoders": checks.FOR_ENCODERS,
        "Adapters": checks.FOR_ADAPTERS,
        "LLMs": checks.FOR_LLMS,
    }
    lines: list[str] = []
    for title, functions in titles.items():
        lines += ["", f"{title}:", ""]
        lines += [f"- `{function.__name__}`: {summary(function)}" for function in functions]
    return "\n".join([*lines, "", ""])


def test_the_list_of_checks_is_the_code() -> None:
    found = LIST.search(TEXT)
    assert found is not None
    assert found[2] == listing()


if __name__ == "__main__":
    TUTORIAL.write_text(LIST.sub(lambda found: found[1] + listing() + found[3], TEXT), encoding="utf-8")
