"""Names of core and plugins: none means two things; docstrings name what they tell of."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLI = "core/kikimimi/cli/"
PROPERTIES = {"property", "cached_property"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SHARED = {
    "Sizes": "the section `sizes` of an encoder's recipe, in each encoder's file; one base class for all",
    "app": "typer's commands of one group, in each group's file",
}
"""Names that several files define, and what the one thing is that all of them mean."""
Said = tuple[int, str, str]
SECTION = re.compile(r"( *)(Args|Attributes|Returns|Yields):")
ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?: (?P<text>.+)")
NO_NOUN = re.compile(
    r"(about|above|across|after|against|along|among|around|as|at|before|below|besides?|between|by|during|for"
    r"|from|in|inside|into|like|near|of|on|onto|outside|over|per|since|than|through|to|under|until|up|upon"
    r"|via|with|within|without|it|that|them|these|they|those|(all|each|one) (for|in|of|per|with))\b",
    re.IGNORECASE,
)


@cache
def files() -> dict[str, tuple[dict[str, bool], list[Said]]]:
    """Return what each file of core and plugins names, and what it says: `names_of` and `said`."""
    paths = [path for folder in ("core", "plugins") for path in sorted((ROOT / folder).rglob("*.py"))]
    modules = ((path, ast.parse(path.read_text(encoding="utf-8"))) for path in paths)
    return {
        path.relative_to(ROOT).as_posix(): (names_of(module), list(said(module))) for path, module in modules
    }


def names_of(module: ast.Module) -> dict[str, bool]:
    """Return the public names that a module defines, and whether each is a function's."""
    return {name: is_function for name, is_function in _defined(module) if not name.startswith("_")}


def _defined(node: ast.AST) -> Iterator[tuple[str, bool]]:
    """Yield what a module, or a statement at its top, names; what a function or a class holds is its own."""
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            yield node.name, isinstance(node, FUNCTIONS)
        case ast.Name(ctx=ast.Store()):
            yield node.id, False
        case ast.Module() | ast.stmt() | ast.excepthandler() | ast.Tuple() | ast.List() | ast.Starred():
            for child in ast.iter_child_nodes(node):
                yield from _defined(child)


def shared_names(names: Mapping[str, dict[str, bool]]) -> dict[str, list[str]]:
    """Return the names that several files define, but for a command and the function that it calls."""
    homes: dict[str, dict[str, bool]] = defaultdict(dict)
    for file, found in names.items():
        for name, is_function in found.items():
            homes[name][file] = is_function
    return {name: list(where) for name, where in homes.items() if len(where) > 1 and not _is_command(where)}


def _is_command(where: dict[str, bool]) -> bool:
    """Tell whether a name is that of a command and of the one function that it calls."""
    return len(where) == 2 and all(where.values()) and sum(file.startswith(CLI) for file in where) == 1


def test_no_public_name_means_two_things() -> None:
    found = shared_names({file: names for file, (names, _) in files().items()})
    assert {name: where for name, where in found.items() if name not in SHARED} == {}
    assert SHARED.keys() <= found.keys()


def test_what_is_counted_as_a_name() -> None:
    source = "A = 1\nb: int = 2\n_c = 3\nclass D: ...\ndef e(): ...\nasync def f(): ...\nfrom g import h\n"
    assert names_of(ast.parse(source)) == {"A": False, "b": False, "D": False, "e": True, "f": True}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("A, (B, *C) = D = 1, (2, 3)", "A B C D"),
        ("[A] = [B for B in C]", "A"),
        ("if A:\n    B = 1\nelif C:\n    D = 1\nelse:\n    E = 1", "B D E"),
        ("try:\n    A = 1\nexcept E:\n    B = 1\nelse:\n    C = 1\nfinally:\n    D = 1", "A B C D"),
        ("for A in B:\n    C = 1\nwith D:\n    E = 1", "A C E"),
        ("if TYPE_CHECKING:\n    from a import B\nA.b = C[0] = 1", ""),
        ("def A():\n    B = 1\nclass C:\n    D = 1", "A C"),
    ],
)
def test_where_names_are_looked_for(source: str, names: str) -> None:
    assert " ".join(names_of(ast.parse(source))) == names


def test_a_command_has_the_name_of_its_function() -> None:
    function, constant = {"a": True}, {"a": False}
    assert shared_names({f"{CLI}b.py": function, "core/c.py": function}) == {}
    assert shared_names({f"{CLI}b.py": function, "core/c.py": constant}) != {}
    assert shared_names({f"{CLI}b.py": function, f"{CLI}c.py": function}) != {}
    assert shared_names({f"{CLI}b.py": function, "core/c.py": function, "plugins/d.py": function}) != {}


def said(module: ast.Module) -> Iterator[Said]:
    """Yield line, name and text of what docstrings and help texts say of arguments, attributes, results."""
    for node in ast.walk(module):
        match node:
            case ast.keyword(arg="help", value=ast.Constant(value=str(text), lineno=line)):
                yield line, "help", text
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from said_in(node)


def said_in(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Said]:
    """Yield line, name and text of what stands in the body of a module, a class or a function."""
    before: ast.stmt | None = None
    for statement in node.body:
        match statement:
            case ast.Expr(value=ast.Constant(value=str(text)), lineno=line):
                if before is None:
                    yield from entries(text, line)
                    if isinstance(node, FUNCTIONS) and PROPERTIES & {*map(ast.unparse, node.decorator_list)}:
                        yield line, node.name, text
                elif isinstance(before, (ast.Assign, ast.AnnAssign)):
                    yield line, ast.unparse(getattr(before, "target", before)), text
        before = statement


def entries(docstring: str, start: int) -> Iterator[Said]:
    """Yield line, name and text of the first line of each entry of a docstring's sections."""
    section, indent = "", -1
    for number, line in enumerate(docstring.split("\n"), start):
        text, depth = line.strip(), len(line) - len(line.lstrip())
        if heading := SECTION.fullmatch(line):
            section, indent = heading[2], depth
        elif text and depth <= indent:
            section, indent = "", -1
        elif section in {"Returns", "Yields"}:
            yield number, section, text
            section = ""
        elif section and depth == indent + 4 and (entry := ENTRY.fullmatch(text)):
            yield number, entry["names"], entry["text"]


def test_docstrings_begin_with_a_noun() -> None:
    assert [
        f"{file}:{line}: {name}: {text.partition('.')[0]}"
        for file, (_, sayings) in files().items()
        for line, name, text in sayings
        if NO_NOUN.match(text)
    ] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('def f(a):\n    """Do.\n\n    Args:\n        a: Of b.\n        b: Its.\n    """', [(5, "Of b.")]),
        ('class A:\n    """B.\n\n    Attributes:\n        a: At\n            a.\n    """', [(5, "At")]),
        ('def f():\n    """Do.\n\n    Returns:\n        Those.\n        In b.\n    """', [(5, "Those.")]),
        ('def f():\n    """In c, do.\n\n    Raises:\n        ValueError: It is b.\n    """', []),
        ('class A:\n    @property\n    def a(self):\n        """At b."""', [(4, "At b.")]),
        ('class A:\n    """By c."""\n\n    a: int = 1\n    """By b."""', [(5, "By b.")]),
        ('"""From a to b."""\n\nA = 1\n"""Each with b."""\nB = 2\n"""One b."""', [(4, "Each with b.")]),
        ('f(\n    help="In c.",\n)', [(2, "In c.")]),
        ('def f(a, b):\n    """Do.\n\n    Args:\n        a: Where it is.\n        b: How many.\n    """', []),
    ],
)
def test_what_is_held_to_begin_with_a_noun(source: str, found: list[tuple[int, str]]) -> None:
    assert [(line, text) for line, _, text in said(ast.parse(source)) if NO_NOUN.match(text)] == found
