from __future__ import annotations

import ast
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text

import kikimimi
from kikimimi.console.rich_console import SafeConsole
from kikimimi.console.terminal import CSV_SAFE, csv_cell, json_text, say, say_json, shortened, visible

pytestmark = pytest.mark.fault(
    "Printing: control characters, markup, formulas", "shown as escapes, on terminals and pages"
)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("聞き耳 ok - \u00e9 \u3000", "聞き耳 ok - \u00e9 \u3000"),
        ("\x1b[31mred\x07\r\n", "\\x1b[31mred\\x07\\r\\n"),
        ("a\u202eb\u200bc\u2028", "a\\u202eb\\u200bc\\u2028"),
        ("\ud800\U000e0041", "\\ud800\\U000e0041"),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_nothing_steers_the_terminal(text: str, seen: str) -> None:
    assert visible(text) == seen


def test_line_feeds_may_stay() -> None:
    assert visible("a\nb\r", lines=True) == "a\nb\\r"


def test_what_is_not_shown_is_counted() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("a" * 1234, 3) == "aaa ... (1,231 more characters)"


def test_what_languages_are_spelled_with_stays() -> None:
    persian, family = (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    )
    assert visible(persian) == persian
    assert visible(family) == family


HOSTILE = "\x1b]0;owned\x07\x9b31m\u202e\u2028[red][/]:smile:\ud800"
HARMLESS = "\\x1b]0;owned\\x07\\x9b31m\\u202e\\u2028[red][/]:smile:\\ud800"


def test_said(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE, "a\tb\r\nc")
    say(3, error=True)
    assert capsys.readouterr() == (f"{HARMLESS}\ta\\tb\\r\nc\n", "3\n")


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    value = {HOSTILE: ["\U000e0041あ\n", 1.5]}
    say_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert visible(printed, lines=True) == printed
    assert "あ" in printed


def test_json_in_files_steers_no_terminal_either(tmp_path: Path) -> None:
    value = {HOSTILE: "\u202ea\x85\U000e0041\n", "path": tmp_path, "あ": "い"}
    for indent in (None, 2):
        text = json_text(value, indent=indent, default=str)
        assert json.loads(text) == {**value, "path": str(tmp_path)}
        assert visible(text, lines=True) == text
        assert '"あ": "い"' in text


def test_all_json_that_people_look_into_is_so() -> None:
    core = Path(kikimimi.__file__).parent
    others = {  # records of shards and their indexes, formats of others, a page
        "console/terminal.py",
        "data/packing/row.py",
        "data/shards/record.py",
        "data/shards/index.py",
        "contracts/vocabulary.py",
        "testing/records.py",
        "report/run_report.py",
        "published/prompts.py",
        "published/auto_map/writing.py",  # no kikimimi where it runs
    }
    raw = {path for path in core.rglob("*.py") if "ensure_ascii=False" in path.read_text("utf-8")}
    assert {str(path.relative_to(core)) for path in raw} == others


def test_tables_take_no_markup_and_no_control(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table()
    table.add_column(HOSTILE, no_wrap=True)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, "bold"))
    console = SafeConsole(width=200)
    console.print(table)
    console.print(HOSTILE, style="bold", soft_wrap=True)
    with console.status(HOSTILE):
        pass
    printed = capsys.readouterr().out
    assert printed.count(HARMLESS) == 3  # header, cell, line; of a Text, rich takes the bell out itself
    assert visible(printed, lines=True) == printed


def test_a_terminal_gets_our_own_styles_alone() -> None:
    file = io.StringIO()
    console = SafeConsole(width=200)
    console.file, console._force_terminal = file, True
    console.print(Text("\x1b[31mx", "bold"))
    assert "\\x1b[31mx" in file.getvalue()
    assert "\x1b[31m" not in file.getvalue()


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
        ("\uff1d1", "'\uff1d1"),
        ("\uff0b1", "'\uff0b1"),
        ("\uff0d1", "'\uff0d1"),
        ("\uff20x", "'\uff20x"),
        ("a=1", "a=1"),
        ("", ""),
        (-1.5, -1.5),
        (None, None),
    ],
)
def test_cells_of_tables(monkeypatch: pytest.MonkeyPatch, value: Any, cell: Any) -> None:
    monkeypatch.delenv(CSV_SAFE, raising=False)
    assert csv_cell(value) == value
    monkeypatch.setenv(CSV_SAFE, "1")
    assert csv_cell(value) == cell


def test_nothing_else_prints() -> None:
    """Whatever the core prints goes through this module or `SafeConsole`."""
    core = Path(kikimimi.__file__).parent
    own = {core / "console/terminal.py", core / "console/rich_console.py"}
    protocol = {core / "testing/import_check.py"}  # JSON, to the process that asked
    for path in set(core.rglob("*.py")) - own - protocol:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                writes = re.fullmatch(
                    r"print|.*\becho|.*\bsecho|sys\.(stdout|stderr)\.write\w*|(.*\.)?Console", name
                )
                assert not writes, f"{path}:{node.lineno}: {name}"
            elif isinstance(node, ast.ImportFrom) and node.module == "rich":
                assert "print" not in {alias.name for alias in node.names}, path
