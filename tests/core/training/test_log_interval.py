from __future__ import annotations

import resource
from typing import Any

import pytest
import torch

from kikimimi.training import log_interval as module
from kikimimi.training.log_interval import MEASURED, LogInterval


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


def step(interval: LogInterval, clock: Clock, wait: float, work: float) -> None:
    """A micro-batch that is waited for and then worked on [s]: 8 s of audio, 40 positions."""
    clock.now += wait
    interval.arrived()
    clock.now += work
    interval.add({"loss": (torch.tensor(1.0), 1)})
    interval.audio_seconds += 8
    interval.positions += 40
    interval.done()


def test_time_that_is_waited_for_data(clock: Clock) -> None:
    interval = LogInterval()
    step(interval, clock, wait=1, work=3)
    step(interval, clock, wait=2, work=2)
    found = interval.metrics(alone)
    assert found["data_wait"] == pytest.approx(3 / 8)
    assert found["audio_seconds_per_second"] == pytest.approx(16 / 8)
    assert found["positions_per_second"] == pytest.approx(80 / 8)
    interval.clear()
    step(interval, clock, wait=0, work=4)
    assert interval.metrics(alone)["data_wait"] == 0


def test_a_validation_is_in_no_rate(clock: Clock) -> None:
    interval = LogInterval()
    step(interval, clock, wait=1, work=3)
    interval.stop_clock()
    clock.now += 1000
    interval.start_clock()
    step(interval, clock, wait=1, work=3)
    found = interval.metrics(alone)
    assert found["positions_per_second"] == pytest.approx(80 / 8)
    assert found["audio_seconds_per_second"] == pytest.approx(16 / 8)
    assert found["data_wait"] == pytest.approx(2 / 8)


def test_over_ranks(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds add up, waiting is the mean, memory that of the fullest."""
    interval = LogInterval()
    step(interval, clock, wait=1, work=3)

    def two(state: dict[str, Any]) -> list[dict[str, Any]]:
        return [state, {**state, "waited": 0.75, "memory_gb": state["memory_gb"] + 1}]

    monkeypatch.setattr(module, "peak_memory", lambda: 2_000_000_000)
    found = interval.metrics(two)
    assert found["audio_seconds_per_second"] == pytest.approx(2 * 8 / 4)
    assert found["data_wait"] == pytest.approx(0.5)
    assert found["memory_gb"] == pytest.approx(3.0)
    assert set(MEASURED) - set(found) == {"flop_utilisation"}  # nothing counts operations here
    interval.flops, interval.matrix_rate = 4e9, 2e9
    assert interval.metrics(two)["flop_utilisation"] == pytest.approx(8e9 / 4 / 4e9)


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert module.peak_memory() >= held > 50_000_000  # torch alone takes more
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    assert module.peak_memory() == 7
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 0)  # a GPU that this run leaves alone
    assert module.peak_memory() >= held


def test_a_run_that_goes_on_counts_its_own_time(clock: Clock) -> None:
    interval = LogInterval()
    step(interval, clock, wait=1, work=3)
    saved = interval.state()
    clock.now += 5000
    later = LogInterval()
    later.restore([saved], 0, 1)
    later.start_clock()
    step(later, clock, wait=2, work=2)
    found = later.metrics(alone)
    assert found["audio_seconds_per_second"] == pytest.approx(8 / 4)
    assert found["data_wait"] == pytest.approx(2 / 4)
    assert found["loss"] == 1.0
