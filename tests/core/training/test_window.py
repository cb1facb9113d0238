from __future__ import annotations

import resource
from typing import Any

import pytest
import torch

from kikimimi.training import window as module
from kikimimi.training.window import MEASURED, LogWindow


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def alone(state: Any) -> list[Any]:
    return [state]


def step(window: LogWindow, clock: Clock, wait: float, work: float) -> None:
    """A micro-batch that is waited for and then worked on [s]: 8 s of audio, 40 positions."""
    clock.now += wait
    window.arrived()
    clock.now += work
    window.add({"loss": (torch.tensor(1.0), 1)})
    window.audio_seconds += 8
    window.positions += 40
    window.done()


def test_time_that_is_waited_for_data(clock: Clock) -> None:
    window = LogWindow()
    step(window, clock, wait=1, work=3)
    step(window, clock, wait=2, work=2)
    found = window.metrics(alone)
    assert found["data_wait"] == pytest.approx(3 / 8)
    assert found["audio_seconds_per_second"] == pytest.approx(16 / 8)
    assert found["positions_per_second"] == pytest.approx(80 / 8)
    window.clear()
    step(window, clock, wait=0, work=4)
    assert window.metrics(alone)["data_wait"] == 0


def test_a_validation_is_in_no_rate(clock: Clock) -> None:
    window = LogWindow()
    step(window, clock, wait=1, work=3)
    window.stop_clock()
    clock.now += 1000
    window.start_clock()
    step(window, clock, wait=1, work=3)
    found = window.metrics(alone)
    assert found["positions_per_second"] == pytest.approx(80 / 8)
    assert found["audio_seconds_per_second"] == pytest.approx(16 / 8)
    assert found["data_wait"] == pytest.approx(2 / 8)


def test_over_ranks(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds add up, waiting is the mean, memory that of the fullest."""
    window = LogWindow()
    step(window, clock, wait=1, work=3)

    def two(state: dict[str, Any]) -> list[dict[str, Any]]:
        return [state, {**state, "waited": 0.75, "memory_gb": state["memory_gb"] + 1}]

    monkeypatch.setattr(module, "peak_memory", lambda: 2_000_000_000)
    found = window.metrics(two)
    assert found["audio_seconds_per_second"] == pytest.approx(2 * 8 / 4)
    assert found["data_wait"] == pytest.approx(0.5)
    assert found["memory_gb"] == pytest.approx(3.0)
    assert set(MEASURED) - set(found) == {"flop_utilisation"}  # nothing counts operations here
    window.flops, window.matrix_rate = 4e9, 2e9
    assert window.metrics(two)["flop_utilisation"] == pytest.approx(8e9 / 4 / 4e9)


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert module.peak_memory() >= held > 50_000_000  # torch alone takes more
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    assert module.peak_memory() == 7
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)  # a GPU that this run leaves alone
    assert module.peak_memory() >= held


def test_a_run_that_goes_on_counts_its_own_time(clock: Clock) -> None:
    window = LogWindow()
    step(window, clock, wait=1, work=3)
    saved = window.state()
    clock.now += 5000
    later = LogWindow()
    later.restore([saved], 0, 1)
    later.start_clock()
    step(later, clock, wait=2, work=2)
    found = later.metrics(alone)
    assert found["audio_seconds_per_second"] == pytest.approx(8 / 4)
    assert found["data_wait"] == pytest.approx(2 / 4)
    assert found["loss"] == 1.0
