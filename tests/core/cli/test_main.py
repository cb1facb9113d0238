"""What every command shares: exit codes, version, help, and how little is imported for them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.markup import render

from kikimimi import __version__
from kikimimi.cli.commands import app

Cli = Callable[..., Any]
HEAVY = ("torch", "transformers", "pytorch_lightning", "numpy", "omegaconf", "soundfile")
COMMANDS = ("quickstart", "train", "evaluate", "transcribe", "show", "plugins", "score", "data")


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "COLUMNS": "80"},
        check=False,
    )


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    done = python(
        "import sys, kikimimi\n"
        f"print(kikimimi.__version__, sorted(set({HEAVY!r}) & set(sys.modules)))\n"
        "kikimimi.Encoder\nprint('torch' in sys.modules)",
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__} []\nTrue\n", "")


def test_a_run_that_is_not_there_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom kikimimi.cli import main\nsys.argv = ['kikimimi', 'check', 'nowhere']\n"
        "try:\n    main()\nfinally:\n"
        "    print(sorted({'torch', 'pytorch_lightning'} & set(sys.modules)))"
    )
    done = python(script, tmp_path)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert done.stderr == "error: nowhere: no such run folder.\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["plugins"], 0),
        (["no-such-command"], 2),
        *(([command, "--help"], 0) for command in COMMANDS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_quick_answers_import_nothing_heavy(
    cli: Cli, tmp_path: Path, arguments: list[str], code: int
) -> None:
    if arguments in (["--help"], ["train", "--help"], ["plugins"]):  # in a process of its own
        script = (
            f"import sys\nfrom kikimimi.cli import main\nsys.argv = ['kikimimi', *{arguments!r}]\n"
            "try:\n    main()\nfinally:\n"
            f"    print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
        )
        done = python(script, tmp_path)
        assert done.returncode == code
        assert done.stderr.splitlines()[-1] == "[]"
    else:
        assert cli(*arguments).code == code


@pytest.mark.parametrize(
    "arguments", [["\x1b[31mx"], ["train", "--\x1b[31mx"], ["data", "pack", "a", "b", "--codec", "\x1b[31m"]]
)
def test_arguments_that_are_wrong_steer_no_terminal(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert "\\x1b[31m" in done.err
    assert "\x1b" not in done.err


def test_version(cli: Cli) -> None:
    assert cli("--version") == (0, f"kikimimi {__version__}\n", "")


def test_help_lists_every_command(cli: Cli) -> None:
    done = cli("--help")
    assert all(f" {command} " in done.out for command in COMMANDS)


def helps(command: Any, words: str = "") -> Iterator[tuple[str, str]]:
    """Yield the help of a command, of its options and of the commands below it."""
    yield words, command.help or ""
    for parameter in command.params:
        yield f"{words} {parameter.name}", getattr(parameter, "help", None) or ""
    for name, below in getattr(command, "commands", {}).items():
        yield from helps(below, f"{words} {name}")


def test_no_help_is_lost_as_markup() -> None:
    """In help, typer takes ``[s]`` and ``[mic]`` for styles, which are not shown."""
    told = list(helps(typer.main.get_command(app)))
    assert " transcribe microphone" in dict(told)
    assert [(where, text) for where, text in told if render(text).plain != text] == []


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_standard_stream_that_is_closed_is_empty(tmp_path: Path, closed: str) -> None:
    script = (
        "import sys\nfrom kikimimi.cli import main\nsys.argv = ['kikimimi', '--version']\n"
        "try:\n    main()\nfinally:\n"
        "    numbers = [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)]\n"
        "    open('told', 'w').write(f'{numbers} {sys.stdin.read()!r}')"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} {closed}"
    done = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, cwd=tmp_path, check=False)
    assert (done.returncode, (tmp_path / "told").read_text()) == (0, "[0, 1, 2] ''")


def test_python_m(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kikimimi.cli", "train", "none.yaml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no recipe none.yaml.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'"),
        (["transcribe"], "Missing argument"),
        (["transcribe", "runs/x"], "name an audio file, or --microphone"),
        (["evaluate"], "Missing argument"),
        (["data", "synth", "ja_small"], "Missing option '--out'"),
        (["data", "synth", "ja_small", "--out", "x", "--count", "0"], "--count"),
        (["train", "--stepps", "3"], "No such option"),
    ],
)
def test_usage_errors(cli: Cli, arguments: list[str], message: str) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert message in " ".join(done.err.replace("│", " ").split())


def test_errors_steer_no_terminal(cli: Cli) -> None:
    done = cli("show", "\x1b]0;x\x07[/red]\u202e.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: there is no recipe \\x1b]0;x\\x07[/red]\\u202e.yaml.\n"


def test_after_two_dashes_nothing_is_an_option(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("--odd.yaml").write_text("name: x\nstages: {}\n")
    for command in (["show"], ["train"], ["plan"], ["data", "show"]):
        done = cli(*command, "--", "--odd.yaml", "--stage=asr")
        assert done.code == 2
        assert "(--odd.yaml:1)" in done.err
        assert "--stage: a recipe has no option '--stage'" in done.err
    done = cli("transcribe", "no-run", "--", "-file.wav")
    assert (done.code, done.err) == (2, "error: no such audio file: -file.wav\n")
    assert "-x.csv: no such file" in cli("data", "pack", "--", "-x.csv", "out", "text=a").err
