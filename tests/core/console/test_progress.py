from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest

from kikimimi.console.progress import Progress, ending
from kikimimi.console.words import duration


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (59.4, "0:59"), (59.5, "1:00"), (3599.6, "1:00:00"), (7384, "2:03:04")],
)
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_ending_names_the_day_when_it_is_another() -> None:
    later = datetime.now() + timedelta(days=2)
    assert ending(2 * 86400).startswith(f"48:00:00 left, ends {later:%Y-%m-%d} ")
    assert re.fullmatch(r"0:00 left, ends \d\d:\d\d:\d\d", ending(0))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("kikimimi.console.progress.time.monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("Speaking", 100, "clips", done=20) as bar:
        for _ in range(40):
            clock[0] += 1
            bar.advance(2, note="fast")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "Speaking: 20/100 clips"
    # After 15 s 30 of the 80 were done: the remaining 50 take 25 s.
    assert re.fullmatch(r"Speaking: 50/100 clips, 0:25 left, ends \S+ fast", lines[1])
    assert re.fullmatch(r"Speaking: 80/100 clips, 0:10 left, ends \S+ fast", lines[2])
    assert lines[3] == "Speaking: 100/100 clips in 0:40 fast"
    assert len(lines) == 4


def test_an_interrupted_step_says_how_far_it_came(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with Progress("Packing", 10, "clips") as bar:
            bar.advance(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert capsys.readouterr().err.splitlines()[-1] == "Packing: 3/10 clips in 0:00"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "100")):
        monkeypatch.setenv(name, value)
    with Progress("Training", 3, "steps") as bar:
        for _ in range(3):
            bar.advance(note="loss 1.25")
    shown = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", capsys.readouterr().err)
    last = shown.replace("\r", "\n").strip().splitlines()[-1]
    assert "Training" in last
    assert "3/3 steps" in last
    assert "loss 1.25" in last
