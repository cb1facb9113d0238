"""`kikimimi plugins new`: what it writes installs, keeps the contract by its own tests, and trains."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kikimimi.cli import app
from kikimimi.contracts import registry
from kikimimi.contracts.options import declared
from kikimimi.errors import KikimimiError, RequestError
from kikimimi.evaluation.evaluate import evaluate
from kikimimi.inference.load import load_model
from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.scaffold import TEMPLATE_KINDS, Scaffold
from kikimimi.testing import CheckResult, list_checks, run_checks, tiny_recipe, write_shard
from kikimimi.training.train import train

ROOT = Path(__file__).parents[3]
NAMES = {
    "encoder": "mel_conv",
    "adapter": "gated-mean",
    "llm": "tinyByte",
    "objective": "focal",
    "task": "ask-field",
    "layout": "said_list",
    "voice": "buzzer",
    "normaliser": "folded",
    "metric": "exact",
    "recogniser": "loudness",
    "judge": "lengthy",
}

RECIPE = f"""
extends: {ROOT / "recipes" / "quickstart.yaml"}
adapter: {{name: {NAMES["adapter"]}, downsample: 8}}
encoder: {{name: {NAMES["encoder"]}}}
llm: {{name: {NAMES["llm"]}}}
stages:
  asr:
    objective: {NAMES["objective"]}
    data: {{sentences: {{task: {{name: {NAMES["task"]}}}}}}}
    validate: {{data: {{held_out: {{task: {{name: {NAMES["task"]}}}}}}}}}
evaluate:
  held_out:
    task: {{name: {NAMES["task"]}}}
    metric: {NAMES["metric"]}
    normaliser: {NAMES["normaliser"]}
"""

NOT_FOLLOWED = """
[[tool.mypy.overrides]]
module = ["peft.*", "torchaudio.*", "transformers.*"]
follow_imports = "skip"
"""


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["plugins", "new", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one generated package of each kind."""
    folder = tmp_path_factory.mktemp("new")
    for kind, name in NAMES.items():
        invoke(name, "--kind", kind, "--out", str(folder / name))
    return folder


@pytest.fixture(scope="module")
def site(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the packages are installed to."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    packages = [str(folder / name) for name in NAMES.values()]
    subprocess.run([*command, "--disable-pip-version-check", "--target", str(site), *packages], check=True)
    return site


@pytest.fixture(scope="module")
def environment(site: Path) -> dict[str, str]:
    """Return the environment of a process that has the packages installed."""
    return {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"}


def run(environment: dict[str, str], folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_there_is_a_template_for_every_kind() -> None:
    assert list(TEMPLATE_KINDS) == list(NAMES) == list(registry.KINDS)


def test_they_are_found(environment: dict[str, str], tmp_path: Path) -> None:
    rows = json.loads(run(environment, tmp_path, "-m", "kikimimi.cli", "plugins", "--json"))
    found = {row["kind"]: (row["name"], row["distribution"]) for row in rows if row["name"] in NAMES.values()}
    distributions = {kind: f"kikimimi-{name.replace('_', '-').lower()}" for kind, name in NAMES.items()}
    assert found == {kind: (name, distributions[kind]) for kind, name in NAMES.items()}


@pytest.mark.slow  # tests/test_third_party.py has one of the kind
def test_their_own_tests_pass(
    site: Path, folder: Path, run_pytest: Callable[..., int], with_packages: Callable[[Path], None]
) -> None:
    with_packages(site)
    checks = {kind: len(list_checks(kind, registry.load(kind, name))) for kind, name in NAMES.items()}
    # Two configs each, but for three kinds, and 22 tests more.
    once = checks["normaliser"] + checks["recogniser"] + checks["judge"]
    expected = 2 * sum(checks.values()) - once + 22
    assert run_pytest(site, *(folder / name for name in NAMES.values())) == expected


def test_their_checks_pass(site: Path, with_packages: Callable[[Path], None]) -> None:
    with_packages(site)
    for kind in set(NAMES) - {"encoder", "adapter", "llm", "objective"}:  # those are trained below
        results = run_checks(kind, registry.load(kind, NAMES[kind]))
        assert [result for result in results if result != CheckResult(result.name, None)] == []


def test_the_readme_gives_what_must_be_given(site: Path, with_packages: Callable[[Path], None]) -> None:
    with_packages(site)
    for kind, name in NAMES.items():
        config = getattr(registry.load(kind, name), "Config", None)
        required = [key for key, option in declared(config).items() if option.required] if config else []
        usage = Scaffold("another", kind).usage()
        assert [key for key in required if f"{key}:" not in usage] == [], usage


def test_a_recipe_trains_them(site: Path, with_packages: Callable[[Path], None], tmp_path: Path) -> None:
    with_packages(site)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    folder = RunFolder.create(
        tmp_path / "run", tiny_recipe(load_recipe(path), write_shard(tmp_path / "data"))
    )
    train(folder)
    model = load_model(folder)
    names = [type(part).__name__ for part in (model.encoder, model.adapter, model.llm)]
    assert names == ["MelConvEncoder", "GatedMeanAdapter", "TinyByteLLM"]
    recipe = folder.recipe
    chosen = [
        recipe.stages["asr"].objective,
        recipe.evaluate["held_out"].task,
        recipe.evaluate["held_out"].metric,
    ]
    assert [one.component.__name__ for one in chosen] == ["FocalObjective", "AskFieldTask", "ExactMetric"]
    (scores,) = evaluate(folder).values()
    assert {(score.metric, score.normaliser) for score in scores.values()} == {("exact", "folded")}


@pytest.mark.slow  # not for its time: the environment of the default tests has no linter
def test_the_source_is_clean(folder: Path) -> None:
    pytest.importorskip("ruff")
    for name in NAMES.values():
        for command in (["check"], ["format", "--check"]):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *command, "--no-cache", "."],
                cwd=folder / name,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"


@pytest.mark.slow
def test_the_source_is_typed(folder: Path) -> None:
    pytest.importorskip("mypy")
    packages = [next((folder / name).glob("kikimimi_*")) for name in NAMES.values()]
    # Strictly: each one's pyproject.toml says so. All at once, since types of torch take long to read.
    projects = [package.parent / "pyproject.toml" for package in packages]
    (settings,) = {path.read_text().partition("[tool.mypy]")[2] for path in projects}
    assert "strict = true" in settings
    # What kikimimi itself imports of others is not looked into.
    config = folder / "mypy.toml"
    config.write_text(f"[tool.mypy]{settings.partition('[tool.ruff]')[0]}{NOT_FOLLOWED}")
    run(dict(os.environ), folder, "-m", "mypy", "--config-file", str(config), *map(str, packages))


def test_what_is_written_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = invoke("Window_q2-former", "--kind", "adapter")
    package = tmp_path / "Window_q2-former"
    assert sorted(str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()) == [
        ".gitignore",
        "README.md",
        "kikimimi_window_q2_former/__init__.py",
        "kikimimi_window_q2_former/adapter.py",
        "kikimimi_window_q2_former/py.typed",
        "pyproject.toml",
        "tests/test_adapter.py",
    ]
    assert output.splitlines()[0] == "Window_q2-former/pyproject.toml"
    assert output.splitlines()[8:] == [
        "adapter 'Window_q2-former' is the package kikimimi-window-q2-former. To install and test it:",
        "  cd Window_q2-former",
        "  pip install -e '.[test]'",
        "  pytest",
        "  kikimimi plugins Window_q2-former --check",
    ]
    assert ('\nWindow_q2-former = "kikimimi_window_q2_former.adapter:WindowQ2FormerAdapter"\n') in (
        package / "pyproject.toml"
    ).read_text()
    assert "$" not in "".join(Scaffold("x", kind).files()["README.md"] for kind in TEMPLATE_KINDS)


@pytest.mark.parametrize("kind", ["layout", "voice"])
def test_the_command_that_shows_its_use_is_one(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, command, _ = Scaffold("x", kind).usage().splitlines()
    result = CliRunner().invoke(app, command.split()[1:])
    # Its arguments are right: what is missing is the file that they name, or the plugin.
    assert isinstance(result.exception, KikimimiError)


def test_a_name_may_carry_its_kind_already() -> None:
    assert Scaffold("window-adapter", "adapter").class_name == "WindowAdapter"
    assert Scaffold("window", "adapter").class_name == "WindowAdapter"
    assert Scaffold("spare-llm", "llm").class_name == "SpareLlm"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("my adapter", "adapter", r"'my adapter' cannot be a plugin's name: use .* For example: my_adapter"),
        ("2tower", "encoder", r"start with a letter; .* For example: tower"),
        ("_x_", "llm", r"For example: x"),
        ("a--b", "llm", r"with single '-' or '_' between them"),
        ("聞き耳", "llm", r"'聞き耳' cannot be a plugin's name: .* start with a letter; .* commands\.$"),
        ("null", "llm", r"'null' cannot be a plugin's name: .* other things in YAML.* For example: my_null"),
        ("True", "llm", r"'True' cannot be a plugin's name: .* For example: my_True"),
        ("new", "voice", r"'new' cannot be a plugin's name: .* list and new are commands\. For"),
        ("../up", "adapter", r"For example: up"),
        ("", "adapter", r"'' cannot be a plugin's name"),
        (
            "x",
            "adaptr",
            r"--kind: there is no template for 'adaptr'\. Did you mean 'adapter'\? Kinds: adapter, e",
        ),
        ("x", "tokens", r"there is no template for 'tokens'\. Kinds: adapter, encoder, judge, layout, llm"),
        (
            "mlp",
            "adapter",
            r"adapter 'mlp' \(kikimimi [\d.]+, kikimimi_adapters.mlp:MLPAdapter\) is registered al",
        ),
        ("adapters", "adapter", r"would be called 'kikimimi_adapters', and one of that name is installed"),
    ],
)
def test_names_and_kinds_that_are_refused(name: str, kind: str, message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plugins", "new", "--kind", kind, "--out", str(tmp_path), "--", name])
    assert isinstance(result.exception, RequestError)
    assert re.search(message, str(result.exception)), str(result.exception)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="exists and is not an empty folder: nothing was written"):
        Scaffold("x", "adapter").write(tmp_path)
    with pytest.raises(RequestError, match=r"mine\.txt exists and is not an empty folder"):
        Scaffold("x", "adapter").write(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_plugin_may_be_called_as_one_of_another_kind() -> None:
    assert Scaffold("mlp", "encoder").distribution == "kikimimi-mlp"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plugins", "--help"], r"(?s)short for.*list .*List the registered.* new .*Write a package"),
        (["plugins", "new", "--help"], r"(?s)NAME .*as recipes will.*--kind .*encoder, adapter, llm.*--out "),
        (["plugins", "mlp", "--help"], r"(?s)\[NAME\].*--check .*--json "),
    ],
)
def test_help(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert re.search(said, result.output), result.output


@pytest.mark.parametrize("arguments", [["mlp", "--json"], ["--json", "mlp"], ["list", "mlp", "--json"]])
def test_list_need_not_be_named(arguments: list[str]) -> None:
    rows = json.loads(CliRunner().invoke(app, ["plugins", *arguments]).output)
    assert [row["value"] for row in rows] == ["kikimimi_adapters.mlp:MLPAdapter"]
