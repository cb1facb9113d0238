"""`kikimimi demo`: what is refused before the model is loaded, and the page of a trained run."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stage", "asd"), "no stage is called 'asd'. Did you mean 'asr'?"),
        (("--language", "fr"), "'fr' is not one of 'en', 'ja'"),
        (("--port", "70000"), "less than or equal to 65535"),
    ],
)
def test_what_is_wrong_is_found_before_the_model_is_loaded(
    cli: Cli, trained: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kikimimi.inference.load.open_engine", None)
    done = cli("demo", trained, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_without_gradio(cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr("kikimimi.inference.load.open_engine", None)
    done = cli("demo", trained)
    assert done.code == 2
    assert done.err == (
        "error: the demo needs the package 'gradio', which is not installed. "
        "Install it with: pip install 'kikimimi[demo]'\n"
    )


@pytest.mark.slow
def test_the_page_of_a_trained_run(trained: Path) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed")
    process = subprocess.Popen(
        [sys.executable, "-m", "kikimimi.cli", "demo", str(trained), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert "kikimimi: small" in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
