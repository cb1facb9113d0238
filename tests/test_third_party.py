"""A plugin of somebody else: pip installs it, kikimimi finds it, its tests pass, and a recipe trains it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kikimimi.cli import app
from kikimimi.inference.load import load_model
from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.testing import list_checks, tiny_recipe, write_shard
from kikimimi.training.train import train
from kikimimi_adapters.mlp import MLPAdapter

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tests" / "third_party" / "kikimimi-average-adapter"

RECIPE = f"""
extends: {ROOT / "recipes" / "quickstart.yaml"}
adapter: {{name: average, downsample: 8}}
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the package's repository: nothing of a build is left in this one."""
    copy = tmp_path_factory.mktemp("repository") / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return copy


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the package is installed to."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--disable-pip-version-check", "--target", str(site), str(repository)], check=True
    )
    return site


@pytest.fixture(scope="module")
def environment(site: Path) -> dict[str, str]:
    """Return the environment of a process that has the package installed."""
    return {**os.environ, "PYTHONPATH": str(site), "COLUMNS": "200"}


@pytest.fixture
def _installed(site: Path, with_packages: Callable[[Path], None]) -> None:
    with_packages(site)


def run(environment: dict[str, str], folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_it_is_listed_with_its_distribution(environment: dict[str, str], tmp_path: Path) -> None:
    rows = json.loads(run(environment, tmp_path, "-m", "kikimimi.cli", "plugins", "--json"))
    (row,) = [row for row in rows if row["name"] == "average"]
    assert row == {
        "kind": "adapter",
        "name": "average",
        "value": "kikimimi_average_adapter:AverageAdapter",
        "distribution": "kikimimi-average-adapter",
        "version": "0.3.1",
        "duplicate": False,
    }


@pytest.mark.usefixtures("_installed")
def test_it_keeps_the_contract() -> None:
    result = CliRunner().invoke(app, ["plugins", "--check", "--json", "average"])
    (row,) = json.loads(result.stdout)
    assert (row["name"], row["failures"]) == ("average", [])


def test_its_own_tests_pass(site: Path, repository: Path, run_pytest: Callable[..., int]) -> None:
    # Two configs, two tests more.
    assert run_pytest(site, repository / "tests") == 2 * len(list_checks("adapter", MLPAdapter)) + 2


@pytest.mark.usefixtures("_installed")
def test_a_recipe_trains_it(tmp_path: Path) -> None:
    """What a user's `kikimimi train` does, on a recipe made tiny."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    folder = RunFolder.create(
        tmp_path / "run", tiny_recipe(load_recipe(path), write_shard(tmp_path / "data"))
    )
    train(folder)
    adapter = load_model(folder).adapter
    assert type(adapter).__module__ == "kikimimi_average_adapter"
    assert (adapter.config.downsample, adapter.context.out_dim) == (8, 64)
    assert (tmp_path / "run" / "weights" / "asr.safetensors").is_file()
    lock = json.loads((tmp_path / "run" / "lock.json").read_text())
    assert lock["plugins"]["adapter"] == {
        "name": "average",
        "distribution": "kikimimi-average-adapter",
        "version": "0.3.1",
        "weights": None,
    }
