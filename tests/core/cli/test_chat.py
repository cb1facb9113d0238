"""`kikimimi chat` with a trained run: from a pipe, and at a terminal."""

from __future__ import annotations

import io
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kikimimi.inference.reply import Reply

Cli = Callable[..., Any]


@pytest.fixture
def chat(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run ``kikimimi chat RUN`` with lines from a pipe."""

    def run(*lines: str, arguments: tuple[object, ...] = (), folder: Path = trained) -> Any:
        content = "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        return cli("chat", folder, *arguments)

    return run


def test_texts_and_clips_are_answered(chat: Cli, cli: Cli, trained: Path, write: Any, tone: Any) -> None:
    """A clip without words is asked what transcription asks, and answered the same."""
    file = write("a b.wav", tone(0.5))
    done = chat(f"/audio {file}", arguments=("max_new_tokens=6",))
    assert done.code == 0
    assert done.err.startswith(f"({file}: 0.5 s)\n")
    assert done.out == cli("transcribe", trained, file).out
    done = chat("こんにちは", f"/audio '{file}' 何？", "なぜ", arguments=("max_new_tokens=3",))
    assert done.code == 0
    assert done.out.count("\n") >= 3


def test_settings_reach_the_engine(chat: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[Reply] = []
    ask = Reply.__init__

    def noted(self: Reply, *given: Any) -> None:
        ask(self, *given)
        replies.append(self)

    monkeypatch.setattr(Reply, "__init__", noted)
    settings = ("max_new_tokens=2", "temperature=0.7", "--system", "親切に")
    assert chat("何", arguments=settings).code == 0
    ((prompt, generation),) = [(reply.prompt, reply.generation) for reply in replies]
    assert (generation.max_new_tokens, generation.temperature) == (2, 0.7)
    assert prompt.conversation.messages[0].role == "system"


def test_lines_that_fail_are_counted(chat: Cli) -> None:
    done = chat("/nothing", "何", "/audio nowhere.wav", arguments=("max_new_tokens=2",))
    assert done.code == 1
    assert done.err.endswith("\nerror: 2 of the lines could not be answered\n")
    assert done.out.endswith("\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("temperatur=1",), "no such option: temperatur. Did you mean 'temperature'?"),
        (("--stage", "asd"), "no stage is called 'asd'. Did you mean 'asr'?"),
        (("--language", "xx"), "task 'asr' has no prompts in 'xx', only in en, ja"),
    ],
)
def test_what_is_wrong_is_found_before_the_model_is_loaded(
    chat: Cli, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kikimimi.inference.load.open_engine", None)
    done = chat("何", arguments=arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_an_untrained_run(chat: Cli, trained: Path, tmp_path: Path) -> None:
    untrained = tmp_path / "untrained"
    untrained.mkdir()
    shutil.copy(trained / "recipe.yaml", untrained)
    done = chat("何", folder=untrained)
    assert done.code == 2
    assert "nothing was trained yet" in done.err


@pytest.mark.slow
def test_a_real_terminal(trained: Path) -> None:
    """Ctrl-C at the prompt keeps the chat, typed text is answered, Ctrl-D ends it with 0."""
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover - another process
        settings = ["max_new_tokens=4"]
        os.execv(sys.executable, [sys.executable, "-m", "kikimimi.cli", "chat", str(trained), *settings])
    shown = ""

    def wait(text: str, again: bytes = b"") -> None:
        nonlocal shown
        while text not in shown:
            if again and not select.select([terminal], [], [], 5.0)[0]:
                os.write(terminal, again)
            else:
                shown += os.read(terminal, 4096).decode(errors="replace")
        shown = shown.partition(text)[2]

    try:
        wait("/help lists")
        wait("> ")
        os.write(terminal, b"\x03")
        # Python waits for the next key where it comes after the prompt and before that waiting (readline.c).
        wait("(Ctrl-D ends the chat)", again=b"\x03")
        wait("> ")
        os.write(terminal, "こんにちは\n".encode())
        wait("> ")
        os.write(terminal, b"\x04")
        _, status = os.waitpid(process, 0)
    except BaseException:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        raise
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['kikimimi', 'chat', '--help']\n"
        "from kikimimi.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'gradio', 'sounddevice'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "/audio" not in done.stdout
    assert "NAME=VALUE" in done.stdout
