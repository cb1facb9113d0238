"""What pip would install: built as a release is, looked into, and used from a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = sorted(
    path.parent
    for source in (ROOT / "core", *sorted((ROOT / "plugins").iterdir()))
    for path in source.glob("kikimimi*/__init__.py")
)
BUILD = "import sys; from hatchling import build; print(getattr(build, sys.argv[1])(sys.argv[2]))"


class Built(NamedTuple):
    wheel: Path
    sdist: Path


def build(target: str, source: Path, out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, target, str(out)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


def names(archive: Path) -> set[str]:
    """Return the files of a wheel or, without its first folder, of an sdist."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return set(wheel.namelist())
    with tarfile.open(archive) as sdist:
        return {
            str(PurePosixPath(*PurePosixPath(m.name).parts[1:])) for m in sdist.getmembers() if m.isfile()
        }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    out = tmp_path_factory.mktemp("dist")
    return Built(build("build_wheel", ROOT, out), build("build_sdist", ROOT, out))


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the wheel, as pip does with a pure one."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built.wheel) as wheel:
        wheel.extractall(folder)
    return folder


def released(folder: Path) -> set[str]:
    """Return the files below a package's folder that belong into a release, from the folder above it."""
    return {
        str(path.relative_to(folder.parent))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_file_of_every_package_and_nothing_else(built: Built) -> None:
    assert len(PACKAGES) >= 8, "the packages are not where this test looks"
    expected = set().union(*(released(package) for package in PACKAGES))
    shipped = {
        f"kikimimi/{path.relative_to(ROOT).as_posix()}"
        for folder in ("recipes", "evaluations")
        for path in (ROOT / folder).rglob("*.yaml")
    }
    held = {name for name in names(built.wheel) if ".dist-info/" not in name}
    assert held == expected | shipped
    for package in PACKAGES:
        assert f"{package.name}/py.typed" in held
    data = {PurePosixPath(name).name for name in held if not name.endswith(".py")}
    assert data >= {"quickstart.yaml", "ja_small.yaml", "asr.yaml", "report.html.j2", "report.css"}


def test_the_wheels_metadata(built: Built) -> None:
    info = f"kikimimi-{PROJECT['version']}.dist-info"
    assert built.wheel.name == f"kikimimi-{PROJECT['version']}-py3-none-any.whl"
    with zipfile.ZipFile(built.wheel) as wheel:
        assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        metadata = wheel.read(f"{info}/METADATA").decode()
        entries = ConfigParser()
        entries.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "Requires-Python: >=3.11\n" in metadata
    for extra in PROJECT["optional-dependencies"]:
        assert f"Provides-Extra: {extra}\n" in metadata
    assert dict(entries["console_scripts"]) == {"kikimimi": "kikimimi.cli:main"}
    for group, plugins in PROJECT["entry-points"].items():
        assert dict(entries[group]) == plugins


def test_the_sdist_can_be_tested_and_built_from(built: Built, tmp_path: Path) -> None:
    held = names(built.sdist)
    for name in (
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "recipes/quickstart.yaml",
        "evaluations/adu-bench.yaml",
        "tests/conftest.py",
    ):
        assert name in held
    made = {name for name in held if name.endswith((".pyc", ".so", ".tar", ".safetensors"))}
    assert {name for name in made if not name.startswith("tests/core/compat/data/")} == set()
    assert "tests/core/compat/data/shards/clips/shard-000000.tar" in made
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build("build_wheel", tmp_path / built.sdist.name.removesuffix(".tar.gz"), tmp_path / "again")
    assert names(again) == names(built.wheel)
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(built.wheel) as other:
        assert all(one.read(name) == other.read(name) for name in other.namelist())


def test_the_version_is_the_packages() -> None:
    import kikimimi

    assert kikimimi.__version__ == PROJECT["version"]


SCRIPT = """
import sys
from pathlib import Path

site = Path(sys.argv[1])
checkout = Path(sys.argv[2])
# The libraries stay; an editable install of this checkout, by path or by finder, goes.
sys.path = [str(site), *(p for p in sys.path if not Path(p).resolve().is_relative_to(checkout))]
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", f"{f}").lower()]

import kikimimi
assert Path(kikimimi.__file__).is_relative_to(site), kikimimi.__file__
from importlib.metadata import distribution
assert Path(str(distribution("kikimimi").locate_file(""))) == site
from kikimimi.contracts import registry as plugins
from kikimimi.recipe.resolve import recipes_folder, shipped_recipe
found = list(plugins.plugins())
for plugin in found:
    if plugin.distribution == "kikimimi":
        module = sys.modules[plugins.load(plugin.kind, plugin.name).__module__]
        assert Path(module.__file__).is_relative_to(site), module.__file__
        print(plugin.kind, plugin.name)
assert recipes_folder() == site / "kikimimi" / "recipes"
from kikimimi.recipe import load_recipe
from kikimimi.synth.grammar import Grammar
from kikimimi.recipe import load_evaluations
assert "cv8-ja" in load_evaluations("japanese-asr")
print("recipe", load_recipe(shipped_recipe("quickstart"), ["encoder.weights=random"]).name)
print("grammar", Grammar.load("ja_small").name)
task = plugins.load("task", "asr")
print("prompts", len(task(task.Config()).phrasings()) > 2)
"""


@pytest.mark.slow
def test_the_wheel_works_from_a_folder_of_its_own(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT, str(installed.resolve()), str(ROOT)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    kinds = {
        (group.removeprefix("kikimimi.").removesuffix("s"), name)
        for group, entries in PROJECT["entry-points"].items()
        for name in entries
    }
    assert {(line.split()[0], line.split()[1]) for line in lines[:-3]} == kinds
    assert lines[-3:] == ["recipe quickstart", "grammar ja_small", "prompts True"]


def test_the_wheels_command_line(installed: Path, tmp_path: Path) -> None:
    """With the wheel before everything else on the path, as an installed command finds it."""
    done = subprocess.run(
        [sys.executable, "-m", "kikimimi.cli", "plugins", "mlp", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"value": "kikimimi_adapters.mlp:MLPAdapter"' in done.stdout
    assert '"duplicate": false' in done.stdout
