from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kikimimi.cli import app
from kikimimi.errors import PluginError

NORMALISERS = "kikimimi.normalisers"
LOWER = """
from kikimimi.contracts.normaliser import Normaliser

class Lower(Normaliser):
    \'\'\'Lower case.\'\'\'

    def __call__(self, text):
        return text.lower()
"""
ADAPTER = """
from kikimimi.contracts.component import Adapter

class Thin(Adapter):
    pass
"""

WIDE = """
from dataclasses import dataclass, field

from kikimimi import PositiveInt, Task, TaskConfig
from kikimimi.contracts.options import Options

@dataclass(kw_only=True, frozen=True)
class Inner(Options):
    width: PositiveInt = 3
    '''How wide [steps].'''

class Wide(Task):
    '''Asks widely.'''

    @dataclass(kw_only=True, frozen=True)
    class Config(TaskConfig):
        inner: Inner = field(default_factory=Inner)
        '''What is inside.'''
"""


@dataclass
class CheckResult:
    name: str
    error: str | None
    not_tried: str | None = None
    traceback: str = ""


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, type]]:
    """Put a compliance kit in place that passes one check and fails another; returns what it was asked."""
    asked: list[tuple[str, type]] = []

    def run_checks(kind: str, component: type) -> list[CheckResult]:
        asked.append((kind, component))
        return [CheckResult("builds", None), CheckResult("lengths", "ValueError: 3 is not 4\n  at token 2")]

    kit: Any = types.ModuleType("kikimimi.testing")
    kit.run_checks = run_checks
    monkeypatch.setitem(sys.modules, "kikimimi.testing", kit)
    return asked


def test_table_names_provenance(install: Any) -> None:
    install(
        "lower-case", {NORMALISERS: {"lower": "third_lower:Lower [extra]"}}, {"third_lower": LOWER}, "2.3"
    )
    result = CliRunner().invoke(app, ["plugins"])
    assert result.exit_code == 0
    row = next(line for line in result.output.splitlines() if " lower " in line)
    assert row.split()[-5:] == ["lower", "lower-case", "2.3", "third_lower:Lower", "[extra]"]
    assert "third_lower" not in sys.modules


def test_duplicates_are_flagged_in_table_and_json(install: Any) -> None:
    install("first", {NORMALISERS: {"lower": "third_a:Lower"}}, {})
    install("second", {NORMALISERS: {"lower": "third_b:Lower"}}, {})
    table = CliRunner().invoke(app, ["plugins", "lower"]).output
    assert table.count("lower (duplicate)") == 2
    rows = json.loads(CliRunner().invoke(app, ["plugins", "lower", "--json"]).output)
    assert [(row["distribution"], row["duplicate"]) for row in rows] == [("first", True), ("second", True)]
    assert rows[0] == {
        "kind": "normaliser",
        "name": "lower",
        "value": "third_a:Lower",
        "distribution": "first",
        "version": "1.0",
        "duplicate": True,
    }


def test_one_of_two_claimants_is_shown_and_checked_by_its_distribution(install: Any) -> None:
    install("first", {NORMALISERS: {"lower": "claimed_a:Lower"}}, {"claimed_a": LOWER})
    install("se-cond", {NORMALISERS: {"lower": "claimed_b:Lower"}}, {"claimed_b": LOWER})
    (row,) = json.loads(CliRunner().invoke(app, ["plugins", "Se_Cond:lower", "--json"]).output)
    assert (row["distribution"], row["value"]) == ("se-cond", "claimed_b:Lower")
    assert row["about"] == "Lower case."
    checked = CliRunner().invoke(app, ["plugins", "--check", "se-cond:lower"])
    assert checked.output == "ok      normaliser 'lower' (se-cond 1.0, claimed_b:Lower): 7 checks\n"
    both = CliRunner().invoke(app, ["plugins", "--check", "lower"])
    assert [line.partition(" (")[2][:7] for line in both.output.splitlines()] == ["first 1", "se-cond"]
    with pytest.raises(PluginError, match=r"thrid registers no plugin 'lower'\. It is registered by first"):
        CliRunner().invoke(app, ["plugins", "thrid:lower"], catch_exceptions=False)


def test_what_was_not_tried_is_not_called_ok(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install("lower-case", {NORMALISERS: {"lower": "third_lower:Lower"}}, {"third_lower": LOWER})
    kit: Any = types.ModuleType("kikimimi.testing")
    kit.run_checks = lambda kind, component: [
        CheckResult("builds", None),
        CheckResult("silence", None, "there is no small model"),
    ]
    monkeypatch.setitem(sys.modules, "kikimimi.testing", kit)
    checked = CliRunner().invoke(app, ["plugins", "--check", "lower"])
    assert checked.exit_code == 0
    assert checked.output == (
        "partly  normaliser 'lower' (lower-case 1.0, third_lower:Lower): 1 check\n"
        "        not tried: silence: there is no small model\n"
    )
    (row,) = json.loads(CliRunner().invoke(app, ["plugins", "--check", "--json", "lower"]).output)
    assert (row["verdict"], row["checks"]) == ("partly", 1)


def test_check_passes_and_fails_with_the_whole_traceback(install: Any) -> None:
    install("lower-case", {NORMALISERS: {"lower": "third_lower:Lower"}}, {"third_lower": LOWER})
    good = CliRunner().invoke(app, ["plugins", "--check", "lower"])
    assert good.exit_code == 0
    assert good.output == "ok      normaliser 'lower' (lower-case 1.0, third_lower:Lower): 7 checks\n"
    site = install(
        "broken", {NORMALISERS: {"breaks": "third_broken:X"}}, {"third_broken": "\nimport no_such_module\n"}
    )
    short = CliRunner().invoke(app, ["plugins", "--check", "breaks"])
    assert short.exit_code == 1
    assert f"No module named 'no_such_module' (raised in {site / 'third_broken.py'}:2)" in short.output
    assert "Traceback" not in short.output
    bad = CliRunner().invoke(app, ["plugins", "--check", "--verbose", "breaks"])
    assert bad.exit_code == 1
    assert bad.output.startswith(
        "FAILED  normaliser 'breaks' (broken 1.0, third_broken:X): 1 of 1 check\n        import:\n"
    )
    assert "Traceback (most recent call last):" in bad.output
    assert f'File "{site / "third_broken.py"}", line 2, in <module>' in bad.output
    assert "ModuleNotFoundError: No module named 'no_such_module'" in bad.output


def test_check_shows_the_contract_that_is_not_kept(install: Any) -> None:
    install("wrong", {NORMALISERS: {"lower": "third_wrong:Lower"}}, {"third_wrong": "class Lower: pass\n"})
    result = CliRunner().invoke(app, ["plugins", "--check", "lower"])
    assert result.exit_code == 1
    assert "is not a subclass of kikimimi.contracts.normaliser.Normaliser" in result.output


def test_check_runs_the_compliance_kit_on_parts(install: Any, checks: list[tuple[str, type]]) -> None:
    install("thin", {"kikimimi.adapters": {"thin": "third_thin:Thin"}}, {"third_thin": ADAPTER})
    result = CliRunner().invoke(app, ["plugins", "--check", "thin"])
    assert [(kind, component.__name__) for kind, component in checks] == [("adapter", "Thin")]
    assert result.exit_code == 1
    assert result.output == (
        "FAILED  adapter 'thin' (thin 1.0, third_thin:Thin): 1 of 2 checks\n"
        "        lengths:\n          ValueError: 3 is not 4\n            at token 2\n"
    )
    rows = json.loads(CliRunner().invoke(app, ["plugins", "--check", "--json", "thin"]).output)
    assert rows[0]["failures"] == [{"check": "lengths", "error": "ValueError: 3 is not 4\n  at token 2"}]


def test_a_name_shows_what_it_is_with_its_options() -> None:
    found = CliRunner().invoke(app, ["plugins", "mlp"])
    assert found.exit_code == 0
    assert "adapter 'mlp'\n  from      kikimimi " in found.output
    assert "  contract  kikimimi.Adapter\n" in found.output
    line = next(line for line in found.output.split("\n") if " hidden_dim " in line)
    assert "a whole number (at least 1) or null" in line
    assert " null " in line
    assert "Width between the layers" in line
    (row,) = json.loads(CliRunner().invoke(app, ["plugins", "mlp", "--json"]).output)
    assert row["contract"] == "kikimimi.Adapter"
    assert row["options"][2] == {
        "name": "pool",
        "value": "one of stack, mean",
        "default": "`stack`",
        "about": "How a group of frames becomes one vector: side by side (`downsample` x E wide), or "
        "averaged (E).",
    }


def test_a_third_partys_options_are_shown_with_those_of_sections(install: Any) -> None:
    install("wide", {"kikimimi.tasks": {"wide": "third_wide:Wide"}}, {"third_wide": WIDE}, "3.1")
    (row,) = json.loads(CliRunner().invoke(app, ["plugins", "wide", "--json"]).output)
    assert (row["distribution"], row["version"], row["contract"]) == ("wide", "3.1", "kikimimi.Task")
    assert row["about"] == "Asks widely."
    assert [(o["name"], o["value"], o["default"], o["about"]) for o in row["options"]] == [
        ("inner", "a section", "its defaults", "What is inside."),
        ("inner.width", "a whole number (at least 1)", "`3`", "How wide [steps]."),
    ]
    assert "inner.width" in CliRunner().invoke(app, ["plugins", "wide"]).output


def test_a_name_that_cannot_be_imported_is_shown_as_broken(install: Any) -> None:
    install(
        "broken", {NORMALISERS: {"breaks": "third_broken:X"}}, {"third_broken": "import no_such_module\n"}
    )
    found = CliRunner().invoke(app, ["plugins", "breaks"])
    assert found.exit_code == 0
    assert (
        "  broken    normaliser 'breaks' (broken 1.0, third_broken:X) is broken: ModuleNotFoun"
        in found.output
    )
    (row,) = json.loads(CliRunner().invoke(app, ["plugins", "breaks", "--json"]).output)
    assert "No module named 'no_such_module'" in row["error"]


def test_unknown_name_is_a_wrong_request() -> None:
    result = CliRunner().invoke(app, ["plugins", "--check", "nonne"])
    assert isinstance(result.exception, PluginError)
    assert str(result.exception).startswith("no plugin is called 'nonne'. Did you mean 'none'? Plugins: ")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["plugins"], 0),
        (["plugins", "--json"], 0),
        (["plugins", "--help"], 0),
        (["plugins", "new", "--help"], 0),
        (["plugins", "new", "brand-new", "--kind", "adapter"], 0),
        (["--help"], 0),
        (["plugins", "nonne"], 2),
    ],
)
def test_listing_and_help_import_neither_torch_nor_omegaconf(
    arguments: list[str], code: int, tmp_path: Path
) -> None:
    script = (
        "import sys\nfrom kikimimi.cli import main\n"
        f"sys.argv = ['kikimimi', *{arguments!r}]\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'omegaconf', 'transformers'}\n"
        "    print(heavy & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.splitlines()[-1] == "set()"
