"""A signal that comes while a plugin is imported stops the command; it does not break the plugin."""

from __future__ import annotations

import importlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kikimimi.console.signals import Stopped
from kikimimi.contracts.plugin_import import import_guarded
from kikimimi.training.stop import at_once, give_back, handle


@pytest.fixture
def obeyed() -> Iterator[None]:
    before, alarm = handle(at_once), signal.getsignal(signal.SIGALRM)
    yield
    give_back(before)
    signal.signal(signal.SIGALRM, alarm)


def loader(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    (folder / f"{name}.py").write_text(f"import signal\n{text}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    return lambda: importlib.import_module(name)


@pytest.mark.parametrize(
    "text",
    [
        "signal.raise_signal(signal.SIGTERM)",
        "try:\n    signal.raise_signal(signal.SIGTERM)\nexcept BaseException:\n    pass",
    ],
)
def test_a_signal_within_the_module(
    text: str, obeyed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = loader(tmp_path, f"stopped_{len(text)}", text, monkeypatch)

    def work() -> None:
        import_guarded("adapter 'a' (b 1)", "kikimimi.adapters", "stopped:A", load)
        time.sleep(20)  # what is imported swallows it; it is asked again behind that

    with pytest.raises(Stopped):
        work()


def test_a_signal_outside_of_others_modules(obeyed: None) -> None:
    with pytest.raises(Stopped):
        import_guarded(
            "adapter 'a' (b 1)", "kikimimi.adapters", "b:A", lambda: signal.raise_signal(signal.SIGTERM)
        )
