from __future__ import annotations

import csv  # noqa: F401 - a module that a component below pretends to be of
import importlib
import sys
from pathlib import Path

import pytest

from kikimimi import Adapter
from kikimimi.testing import import_check, list_checks

ADAPTER = """
from kikimimi import Adapter

{body}

class Named(Adapter):
    pass
"""


@pytest.fixture
def component(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    name = f"third_import_{abs(hash(request.param))}"
    (tmp_path / f"{name}.py").write_text(
        ADAPTER.format(body=f"import sys\nif 'pytest' not in sys.modules:\n    {request.param}")
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, name, module)
    found: type = module.Named
    return found


def check(component: type) -> None:
    next(check for check in list_checks("adapter", component) if check.name == "import_is_quiet")()


@pytest.mark.parametrize("component", ["pass"], indirect=True)
def test_a_quiet_import_passes(component: type) -> None:
    check(component)


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ("import socket; socket.getaddrinfo('example.org', 443)", "a name look-up of example.org"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", r"look-up|a connection to"),
        ("import socket; socket.socket().connect(('127.0.0.1', 9))", r"a connection to \('127.0.0.1', 9\)"),
        ("import pytorch_lightning", "leaves the trainer alone, found pytorch_lightning"),
        ("raise OSError('no such file')", "OSError: no such file"),
        (
            "import os; os._exit(3)",
            r"importing third_import_\d+ comes to an end, found the process gone \(768",
        ),
    ],
    indirect=["component"],
)
def test_a_loud_import_is_caught(component: type, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(component)


def test_what_is_there_before_anybody_asks_is_caught() -> None:
    early = type("Early", (Adapter,), {"__module__": "json"})  # as if listing plugins had imported it
    with pytest.raises(AssertionError, match=r"neither torch nor a plugin, found json$"):
        check(early)


def test_an_interpreter_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_check, "_SERVER", "raise SystemExit('no kikimimi here')")
    import_check._server.cache_clear()
    named = type("Named", (Adapter,), {"__module__": "csv"})
    try:
        with pytest.raises(AssertionError, match=r"found one that fails: no kikimimi here"):
            check(named)
    finally:
        import_check._server.cache_clear()
