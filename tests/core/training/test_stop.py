from __future__ import annotations

import importlib
import signal
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from kikimimi.cli.commands import app
from kikimimi.console.signals import Stopped
from kikimimi.training.stop import STOPPED, AfterStep, stopping, told


class Node:
    pass


GO_ON = {"quickstart", "train", "sweep", "evaluate", "data synth", "data pack"}


def commands() -> list[str]:
    """Return the words of each command, as they are typed."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    grouped = root.commands["data"]
    assert isinstance(grouped, TyperGroup)
    return [*sorted(root.commands.keys() - {"data"}), *(f"data {name}" for name in grouped.commands)]


@pytest.mark.parametrize("command", commands())
def test_only_what_keeps_its_work_says_that_it_goes_on(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kikimimi", *command.split(), "runs/small"])
    again = " Run the same command again: it goes on from here." if command in GO_ON else ""
    assert (told(), told("SIGTERM")) == (f"stopped.{again}", f"stopped by SIGTERM.{again}")


def test_a_script_of_ones_own_that_trains_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert told() == "stopped. Run the same command again: it goes on from here."


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGUSR1, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_where_nothing_can_be_raised_stops_all_the_same(
    number: signal.Signals, error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    heard = []

    def finalise(_: object) -> None:
        heard.append(number)
        signal.raise_signal(number)
        time.sleep(1)  # the signal is raised before

    def stop() -> None:
        node = Node()
        watch = weakref.ref(node, finalise)
        with stopping():
            del node
            assert watch() is None
            time.sleep(100)

    with pytest.raises(error) as raised:
        stop()
    assert heard == [number]
    assert getattr(raised.value, "code", STOPPED) == STOPPED
    assert "Traceback" not in capsys.readouterr().err


def test_what_else_is_lost_goes_to_the_hook_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[sys.UnraisableHookArgs] = []
    monkeypatch.setattr("sys.unraisablehook", told.append)

    def finalise(_: object) -> None:
        raise ValueError

    with stopping():
        node = Node()
        watch = weakref.ref(node, finalise)
        del node
        assert watch() is None
    assert [lost.exc_type for lost in told] == [ValueError]


SWALLOWS = """
import signal
try:
    signal.raise_signal({number})
    sum(range(100_000))
except BaseException as error:
    raise ImportError("blamed on the module") from error
"""


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_in_an_import_is_obeyed_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, error: type[BaseException]
) -> None:
    """Modules swallow what is raised in them, or are told to be broken."""
    name = f"swallows_{number.name.lower()}"
    (tmp_path / f"{name}.py").write_text(SWALLOWS.format(number=int(number)))
    monkeypatch.syspath_prepend(tmp_path)
    reached = []

    def train() -> None:
        with stopping():
            importlib.import_module(name)
            reached.append("imported")
            time.sleep(100)
            reached.append("trained on")

    with pytest.raises(error):
        train()
    assert "trained on" not in reached
    assert name in sys.modules


def test_a_stop_that_is_swallowed_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kikimimi.training.stop.OBEYING", 0.2)

    def train() -> None:
        with stopping():
            with suppress(BaseException):  # as libraries do
                signal.raise_signal(signal.SIGTERM)
            time.sleep(100)
            raise AssertionError("trained on")

    with pytest.raises(SystemExit) as stopped:
        train()
    assert stopped.value.code == STOPPED


def test_a_step_that_does_not_end_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = AfterStep()
    asked.stop_if_overdue()
    asked(signal.SIGTERM, None)
    asked.stop_if_overdue()  # the step has its time
    monkeypatch.setattr("kikimimi.training.stop.OVERDUE", -1.0)
    with pytest.raises(Stopped):
        asked.stop_if_overdue()
