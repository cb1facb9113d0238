"""Every place that opens a file for writing does so through `kikimimi.files.writing`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WAYS = {"whole_file", "whole_folder", "writing"}  # add_lines opens by itself
WRITERS = {
    *("write_text", "write_bytes", "touch", "mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile"),
    *("TemporaryDirectory", "save_file", "savefig", "savez", "copyfile", "copy2", "copytree", "TarWriter"),
    *("write_tensors",),
}
OPENERS = {"open", "fdopen", "SoundFile", "ZipFile"}
WRITING_FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"}
ALLOWED = {
    "core/kikimimi/cli/__init__.py": "the null device, in the place of a standard stream that is closed",
    "core/kikimimi/data/audio.py": "a file without a name",
    "core/kikimimi/data/content.py": "a file without a name: memory, or on the disk for a while",
    "core/kikimimi/report/drawing.py": "a text in memory",
    "core/kikimimi/sweeps/tidy.py": "the kernel's account of this process",
    "core/kikimimi/weights/tensors.py": "write_tensors, whose callers are looked at here",
    "core/kikimimi/training/state/checkpoint.py": "tells its failures on all ranks, with what is intact",
    "core/kikimimi/testing/adapter_checks.py": "a folder of a check, which tells what fails",
    "core/kikimimi/testing/llm_checks.py": "a folder of a check, which tells what fails",
    "core/kikimimi/testing/import_check.py": "a file of a check without a name",
    "core/kikimimi/testing/layout_checks.py": "a folder of a check, which tells what fails",
    "core/kikimimi/testing/subject.py": "a folder of a check, which tells what fails",
    "plugins/recognisers/kikimimi_recognisers/tiny_whisper.py": "a model for a check, which tells what fails",
}


def name_of(call: ast.expr) -> str:
    return getattr(call, "attr", getattr(call, "id", ""))


def opens_for_writing(call: ast.Call) -> bool:
    name = name_of(call.func)
    if name in WRITERS:
        return True
    if name == "save" and isinstance(call.func, ast.Attribute):
        return name_of(call.func.value) in ("torch", "np", "numpy")
    if name == "write" and isinstance(call.func, ast.Attribute):
        return name_of(call.func.value) in ("soundfile", "sf")
    if name not in OPENERS:
        return False
    if any(isinstance(node, ast.Attribute) and node.attr in WRITING_FLAGS for node in ast.walk(call)):
        return True
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [node.value for node in given if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return any(set(mode) <= set("rwxabt+|:gz") and set(mode) & set("wxa+") for mode in modes)


def places(source: str) -> Iterator[int]:
    """Yield the lines of a module where something is opened for writing in another way."""

    def walk(node: ast.AST, covered: bool) -> Iterator[int]:
        if isinstance(node, ast.With):
            for item in node.items:  # each is covered by those before it
                yield from walk(item, covered)
                call = item.context_expr
                covered = covered or (isinstance(call, ast.Call) and name_of(call.func) in WAYS)
            for statement in node.body:
                yield from walk(statement, covered)
            return
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            covered = False
        if isinstance(node, ast.Call) and opens_for_writing(node) and not covered:
            yield node.lineno
        for child in ast.iter_child_nodes(node):
            yield from walk(child, covered)

    return walk(ast.parse(source), False)


def modules() -> list[str]:
    found = [path for folder in ("core", "plugins") for path in (ROOT / folder).rglob("*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def test_every_place_that_writes_goes_through_the_two_ways() -> None:
    found = {
        name: lines
        for name in modules()
        if name not in ALLOWED and (lines := list(places((ROOT / name).read_text("utf-8"))))
    }
    assert found == {}


def test_what_is_allowed_still_writes() -> None:
    assert [name for name in ALLOWED if not list(places((ROOT / name).read_text("utf-8")))] == []


@pytest.mark.parametrize(
    "source",
    [
        "path.write_text(text)",
        "open(path, 'w')",
        "path.open('ab')",
        "open(path, mode='x')",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "with path.open('r+') as file: pass",
        "tarfile.open(path, mode='w|')",
        "with whole_file(path) as unfinished:\n    def later():\n        path.write_bytes(b'')",
        "with path.open('w') as file, whole_file(path): pass",
        "torch.save(state, path)",
    ],
)
def test_what_is_found(source: str) -> None:
    assert list(places(source))


@pytest.mark.parametrize(
    "source",
    [
        "path.open()",
        "open(path, 'rb')",
        "Corpus.open(name, evaluation)",
        "os.open(path, os.O_RDONLY)",
        "with whole_file(path) as unfinished:\n    unfinished.write_text(text)",
        "with whole_file(path) as unfinished, unfinished.open('w') as file: pass",
    ],
)
def test_what_is_not(source: str) -> None:
    assert not list(places(source))
