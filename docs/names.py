"""The table of all public names, from the lists of them and the docstrings where they live."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import kikimimi

FOLDER = Path(kikimimi.__file__).parent
LISTS = {"kikimimi": FOLDER / "__init__.pyi", "kikimimi.testing": FOLDER / "testing" / "__init__.pyi"}
"""Packages that plugins import from, and where each lists its names."""


OLD = "An earlier name of"


def names_reference() -> str:
    """Return a table for each module that public names live in, as Markdown."""
    lines = [""]
    for module, said in public_names():
        lines += [f"### `{module}`", "", "| name | what it is |", "|---|---|"]
        lines += [f"| `{name}` | {said[name]} |" for name in sorted(said, key=str.casefold)]
        lines.append("")
    return "\n".join(lines)


def public_names() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each module that public names live in, with these names and what is said of them."""
    for package, names in LISTS.items():
        for node in ast.parse(names.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                module = f"{package}.{node.module}"
                said = _summaries(module)
                yield module, {alias.name: said[alias.name] for alias in node.names}


def _summaries(module: str) -> dict[str, str]:
    """Return the first line of what is said of each name that a module defines."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    found = {}
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = _first_line(ast.get_docstring(node))
            continue
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            old, new = (ast.unparse(one).strip("()").split(", ") for one in (node.targets[0], node.value))
            found |= {name: f"{OLD} `{now}`." for name, now in zip(old, new, strict=True)}
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name):
            found[target.id] = _first_line(_text(following))
    return found


def _text(node: ast.stmt | None) -> str | None:
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def _first_line(text: str | None) -> str:
    return " ".join((text or "").strip().partition("\n\n")[0].split()).replace("|", "\\|")
