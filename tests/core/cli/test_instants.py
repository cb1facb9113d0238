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

import pytest

from kikimimi.testing import write_shard

pytestmark = pytest.mark.fault(
    "The system: signals at any instant", "obeyed: 130 or 143, nothing left behind"
)

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
LONGEST = 60.0
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
        end = time.monotonic() + 5
        while group_is_alive(process.pid):
            assert time.monotonic() < end, f"processes are left of {command}"
            time.sleep(0.05)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, said


@pytest.fixture
def commands(tmp_path: Path, recipe_file: Path, trained: Path) -> dict[str, list[str]]:
    out = str(tmp_path / "out")
    shards = write_shard(tmp_path / "data", 4)
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    return {
        "train": ["train", str(recipe_file), "stages.asr.steps=4000", "--out", out],
        "synth": ["data", "synth", "ja_small", "--out", out, "--count", "400"],
        "check": ["data", "check", *[shards] * 5000, "--workers", "2"],
        "evaluate": ["evaluate", str(run)],
    }


def assert_obeyed(found: tuple[int, str], number: signal.Signals, about: str) -> None:
    code, said = found
    assert "Traceback" not in said, f"{about}:\n{said}"
    assert code == CODES[number], f"{about}: {code}\n{said}"
    assert "Run the same command again: it goes on from here." in said, f"{about}:\n{said}"


@pytest.mark.parametrize(
    ("name", "number", "instant"),
    [
        ("train", signal.SIGTERM, 0.0),
        ("train", signal.SIGINT, 0.9),
        ("check", signal.SIGTERM, 1.2),
    ],
)
def test_a_signal_is_obeyed(
    commands: dict[str, list[str]], name: str, number: signal.Signals, instant: float
) -> None:
    assert_obeyed(stop(commands[name], number, instant, to_all=False), number, name)


@pytest.mark.chaos
def test_two_hundred_instants(commands: dict[str, list[str]], tmp_path: Path) -> None:
    random, codes = Random(0), Counter[int]()
    for turn in range(200):
        name = ("train", "train", *commands)[turn % 6]
        number, instant = random.choice(list(CODES)), random.uniform(0, 8)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(tmp_path / "run" / "evaluations", ignore_errors=True)
        found = stop(commands[name], number, instant, to_all=random.random() < 0.5)
        codes[found[0]] += 1
        if found[0] == 0 and name in ("evaluate", "check"):
            continue  # it was faster
        assert_obeyed(found, number, f"{turn}: {number.name} to {name} after {instant:.2f} s")
    print(f"\n200 instants: {dict(codes)}")
