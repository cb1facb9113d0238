"""Signals at any instant of a command, its first seconds included: run all with `pytest -m chaos -n 0 -s`.

Each is obeyed: 143 or 130, one line, no traceback, and no process that worked for the command is left.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import soundfile

from kikimimi.testing import write_shard

pytestmark = pytest.mark.fault(
    "The system: signals at any instant", "obeyed: 130 or 143, nothing left behind"
)

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
LONGEST = 240.0
"""How long a stop may take on a machine that is busy with other tests [s]."""


def catches(process: int) -> bool:
    """Tell whether the command has begun to see to signals: before, Python itself is starting."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (caught,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught & 1 << (signal.SIGTERM - 1))


def group_is_alive(group: int) -> bool:
    """Tell whether a process of a group runs; what nobody has asked how it ended does not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def stop(command: list[str], number: signal.Signals, instant: float, *, to_all: bool) -> tuple[int, str]:
    """Start a command, send it a signal, and return its exit code and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kikimimi.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        while process.poll() is None and not catches(process.pid):
            time.sleep(0.002)
        time.sleep(instant)
        if process.poll() is None:
            (os.killpg if to_all else os.kill)(process.pid, number)
        said, _ = process.communicate(timeout=LONGEST)
        end = time.monotonic() + LONGEST
        while group_is_alive(process.pid):
            assert time.monotonic() < end, f"processes are left of {command}"
            time.sleep(0.05)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.wait(), said


@pytest.fixture
def commands(tmp_path: Path, recipe_file: Path, trained: Path) -> dict[str, list[str]]:
    out = str(tmp_path / "out")
    shards = write_shard(tmp_path / "data", 4)
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, np.sin(np.arange(16_000) / 9) / 4, 16_000)
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    rows = "\n".join(f"{clip},text {number}" for number in range(4000))
    table = tmp_path / "table.csv"
    table.write_text(f"path,text\n{rows}\n", encoding="utf-8")
    return {
        "train": ["train", str(recipe_file), "stages.asr.steps=4000", "--out", out],
        "synth": ["data", "synth", "ja_small", "--out", out, "--count", "400"],
        "pack": ["data", "pack", str(table), out, "--workers", "2"],
        "check": ["data", "check", *[shards] * 5000, "--workers", "2"],
        "evaluate": ["evaluate", str(run)],
    }


def problem(name: str, found: tuple[int, str], number: signal.Signals) -> str | None:
    """Say why a signal was not obeyed; None where it was."""
    code, said = found
    if "Traceback" in said:
        return "a traceback"
    if code != CODES[number]:
        return f"exit code {code}"
    again = "" if name == "check" else " Run the same command again: it goes on from here."
    words = f"stopped.{again}" if number == signal.SIGINT else f"stopped by {number.name}.{again}"
    return None if words in said.splitlines() else f"not the words {words!r}"


@pytest.mark.parametrize(
    ("name", "number", "instant"),
    [
        ("train", signal.SIGTERM, 0.0),
        ("train", signal.SIGINT, 0.9),
        ("check", signal.SIGTERM, 1.2),
        ("pack", signal.SIGUSR1, 1.2),
    ],
)
def test_a_signal_is_obeyed(
    commands: dict[str, list[str]], name: str, number: signal.Signals, instant: float
) -> None:
    found = stop(commands[name], number, instant, to_all=False)
    assert problem(name, found, number) is None, found


SHUTS_DOWN = """
import atexit, signal, sys, threading, time
from kikimimi.cli import main

def ask(send=signal.pthread_kill, to=threading.main_thread().ident):
    for number in (2, 10, 15):
        send(to, number)

class Last:
    def __del__(self, ask=ask):  # when modules have lost their names
        ask()

def ask_and_stay():
    threading.main_thread().join()
    while True:  # one that comes before the main thread waits does not wake it
        ask()
        time.sleep(0.05)

if "thread" in sys.argv:
    threading.Thread(target=ask_and_stay).start()
elif "first" in sys.argv:
    stop = main.__globals__["_said"]
    main.__globals__["_said"] = lambda code: ask() or stop(code)
elif "exit" in sys.argv:
    atexit.register(ask)
else:
    sys.last = Last()
sys.argv = ["kikimimi", "--version"] if "good" in sys.argv else ["kikimimi", "no-such-command"]
main()
"""


@pytest.mark.parametrize("place", ["first", "thread", "exit", "last"])
@pytest.mark.parametrize(("how", "code"), [("good", 0), ("bad", 2)])
def test_a_command_that_is_done_keeps_its_exit_code(how: str, code: int, place: str) -> None:
    """A signal once it has ended, while threads end, in what libraries do at exit, or in Python's own end."""
    done = subprocess.run(
        [sys.executable, "-c", SHUTS_DOWN, how, place],
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_two_hundred_instants(commands: dict[str, list[str]], tmp_path: Path) -> None:
    random, codes, failures = Random(0), Counter[int](), []
    for turn in range(200):
        name = ("train", *commands)[turn % 6]
        number, instant = random.choice(list(CODES)), random.uniform(0, 8)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(tmp_path / "run" / "evaluations", ignore_errors=True)
        found = stop(commands[name], number, instant, to_all=random.random() < 0.5)
        codes[found[0]] += 1
        if found[0] == 0 and name in ("evaluate", "check", "pack"):
            continue  # it was faster
        if wrong := problem(name, found, number):
            about = f"{turn}: {number.name} to {name} after {instant:.2f} s: {wrong}\n{found[1]}"
            print(about, flush=True)
            failures.append(about)
    print(f"\n200 instants: {dict(codes)}")
    assert not failures, "\n".join(failures)
