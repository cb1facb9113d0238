"""Imports of core and plugins: what import-linter cannot hold, and that its list for plugins is whole."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
OPEN = {"kikimimi", "kikimimi.testing"}
"""Where plugins find public names."""
ENTRIES = {"__init__", "__main__"}
"""Files that take names from the `__init__` of their own package: it, and the one that runs the package."""


@cache
def sources() -> dict[str, str]:
    """Return the source of each file of core and plugins under its module's name, `__init__` included."""
    files = [
        (path, folder)
        for folder in [ROOT / "core", *sorted((ROOT / "plugins").iterdir())]
        for path in sorted(folder.rglob("*.py"))
    ]
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): path.read_text("utf-8")
        for path, folder in files
    }


def imports(source: str) -> Iterator[tuple[str, str]]:
    """Yield the module of each import, and the name that is taken from it; none where all of it is."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)


def breaches(module: str, source: str, modules: set[str]) -> Iterator[str]:
    """Yield the imports of a file that break a rule.

    Args:
        module: Its name, such as ``kikimimi.text.__init__``.
        source: What it holds.
        modules: Names of all modules and packages.
    """
    package, _, file = module.rpartition(".")
    in_core = module.startswith("kikimimi.")
    for origin, name in imports(source):
        said = f"{module}: {origin} {name}".rstrip()
        from_core = origin.partition(".")[0] == "kikimimi"
        takes_a_module = f"{origin}.{name}" in modules
        above = f"{package}.".startswith(f"{origin}.") and not takes_a_module
        if origin.startswith(".") or (from_core and not name):
            yield f"{said}: written as 'from kikimimi.place import name'"
        elif in_core and origin == "kikimimi":
            if name != "__version__":
                yield f"{said}: the core takes it from the module that defines it"
        elif not in_core and from_core and (origin not in OPEN or takes_a_module):
            yield f"{said}: not a public name"
        elif origin == module or (above and file not in ENTRIES):
            yield f"{said}: taken from the module that defines it, not from the package that holds this one"


def test_imports() -> None:
    modules = {module.removesuffix(".__init__") for module in sources()}
    assert len(modules) > 200
    assert [said for name, source in sources().items() for said in breaches(name, source, modules)] == []


@pytest.mark.parametrize("module", ["kikimimi.text.render", "kikimimi.text.__init__"])
@pytest.mark.parametrize(
    "source",
    [
        "from kikimimi import Record",
        "def f():\n    from kikimimi import errors",
        "from kikimimi import __version__, Record",
        "import kikimimi",
        "import kikimimi.errors as there",
        "from . import chat",
        "from .chat import Chat",
    ],
)
def test_what_the_core_may_not_import(module: str, source: str) -> None:
    assert len(list(breaches(module, source, {"kikimimi.errors"}))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kikimimi.text.chat", "from kikimimi.text import Chat"),
        ("kikimimi.text.chat", "from kikimimi.text.chat import Chat"),
        ("kikimimi.text.deep.chat", "if TYPE_CHECKING:\n    from kikimimi.text import Chat"),
        ("kikimimi_llms.chat", "from kikimimi_llms import Chat"),
        ("kikimimi_llms.chat", "from kikimimi_llms.chat import Chat"),
        ("kikimimi_llms.chat", "import kikimimi"),
        ("kikimimi_llms.chat", "import kikimimi.testing"),
        ("kikimimi_llms.chat", "from kikimimi.text import Chat"),
        ("kikimimi_llms.chat", "import kikimimi as k"),
        ("kikimimi_llms.chat", "from kikimimi.errors import DataError"),
        ("kikimimi_llms.chat", "from kikimimi.text.chat import Chat"),
        ("kikimimi_llms.chat", "from kikimimi import text"),
    ],
)
def test_what_a_module_may_not_import(module: str, source: str) -> None:
    assert len(list(breaches(module, source, {"kikimimi.text", "kikimimi.text.chat"}))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kikimimi.text.page", "from kikimimi import __version__"),
        ("kikimimi.text.page", "from kikimimi.text import chat\nfrom kikimimi.recipe import Recipe"),
        ("kikimimi.text.__init__", "from kikimimi.text.chat import Chat"),
        ("kikimimi.cli.__main__", "from kikimimi.cli import main"),
        ("kikimimi_llms.page", "from kikimimi import LLM\nfrom kikimimi.testing import tiny\nimport torch"),
        ("kikimimi_llms.page", "from kikimimi_llms import chat\nfrom kikimimi_llms.chat import Chat"),
    ],
)
def test_what_may_be_imported(module: str, source: str) -> None:
    assert list(breaches(module, source, {"kikimimi.text.chat", "kikimimi_llms.chat"})) == []


def closed(layers: list[str]) -> set[str]:
    """Return what plugins may not import where the core has these floors."""
    names = {f"kikimimi.{name}" for layer in layers for name in layer.split(" | ")}
    return {f"{name}.*" if name in OPEN else name for name in names}


def test_the_list_for_plugins_is_whole() -> None:
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    contracts = settings["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    (listed,) = [
        contract["forbidden_modules"]
        for contract in contracts
        if contract["type"] == "forbidden" and contract["source_modules"] != ["kikimimi"]
    ]
    assert sorted(listed) == sorted(closed(layers))


def test_a_new_folder_of_the_core_is_closed_to_plugins() -> None:
    assert closed(["new | testing", "errors"]) == {"kikimimi.new", "kikimimi.testing.*", "kikimimi.errors"}
