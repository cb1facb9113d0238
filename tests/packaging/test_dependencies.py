"""What the code imports is what the project declares; nothing is there by luck."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
COMES_WITH = {
    "tokenizers": "transformers",
    "aiohttp": "fsspec",
    "pyarrow": "datasets",
    "starlette": "fastapi",
    "anyio": "fastapi",
    "pydantic-core": "pydantic",
}
"""Distributions of which another one that is declared is the public face."""


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return {canonicalize_name(Requirement(line).name) for lines in lists for line in lines}


def imported() -> Iterator[tuple[str, Path]]:
    for path in [*(ROOT / "core").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((alias.name.partition(".")[0], path) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                yield node.module.partition(".")[0], path


def test_what_is_imported_is_declared() -> None:
    known, distributions = declared(), packages_distributions()
    strange, found = set(), set()
    for module, path in imported():
        if module in sys.stdlib_module_names or module.startswith("kikimimi") or module == "_typeshed":
            continue
        names = {canonicalize_name(name) for name in distributions.get(module, [module])}
        found |= names
        if not names & known and not {COMES_WITH.get(name) for name in names} & known:
            strange.add((module, path.name))
    assert not strange
    assert found >= {"torch", "packaging", *COMES_WITH}
