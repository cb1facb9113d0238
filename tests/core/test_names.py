"""Names of the core: none means two things."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

CORE = Path(__file__).parents[2] / "core" / "kikimimi"
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def names_of(source: str) -> set[str]:
    """Return the public classes, functions and constants that a module defines."""
    found: set[str] = set()
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found.update(target.id for target in targets if isinstance(target, ast.Name))
        if isinstance(node, DEFINITIONS):
            found.add(node.name)
    return {name for name in found if not name.startswith("_")}


def homes() -> dict[str, list[str]]:
    """Return the files that define each public name; a command has the name of what it calls."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(CORE.rglob("*.py")):
        if path.relative_to(CORE).parts[0] != "cli":
            for name in names_of(path.read_text(encoding="utf-8")):
                found[name].append(path.relative_to(CORE).as_posix())
    return found


def test_no_public_name_means_two_things() -> None:
    assert {name: modules for name, modules in homes().items() if len(modules) > 1} == {}


def test_what_is_counted_as_a_name() -> None:
    source = "A = 1\nb: int = 2\n_c = 3\nclass D: ...\ndef e(): ...\nasync def f(): ...\nfrom g import h\n"
    assert names_of(source) == {"A", "b", "D", "e", "f"}
