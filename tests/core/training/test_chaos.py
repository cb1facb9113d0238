"""kill -9, twenty times in a training: run with `pytest -m chaos -n 0 -s`.

A run is killed in steps, inside of saves, in validations and while it starts, and goes on after each. In the
end every loss, every validation and the weights are bit for bit those of a run that was never touched, and
every record was read once per epoch, in the same order.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kikimimi.run.folder import RunFolder, run_name
from kikimimi.training.train import train

from .conftest import Launch, Make

KILLS = {"step": 6, "save": 7, "validation": 5, "start": 2}
STEPS, AFTER = 150, 50
OPTIONS = (
    f"stages.asr.steps={STEPS}",
    "stages.asr.checkpoint={every: 3, keep: 2}",
    "stages.asr.validate.every=4",
)
RECORDS = 12  # of the training set
# The command itself, noting which records each micro-batch holds.
NOTING = """
import json, os, sys
from kikimimi.cli import main
from kikimimi.training.module import StageModule

real = StageModule.training_step
file = os.open(os.environ["RECORDS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def training_step(self, batch, index):
    os.write(file, (json.dumps([index, batch.batch.names]) + "\\n").encode())
    return real(self, batch, index)

StageModule.training_step = training_step
main()
"""


class Victim:
    """A training that is killed again and again."""

    def __init__(self, launch: Launch, recipe: Path, out: Path, records: Path) -> None:
        self.launch, self.recipe, self.records = launch, recipe, records
        self.run = out / run_name("small", OPTIONS)
        self.script = records.with_suffix(".py")
        self.script.write_text(NOTING)

    def start(self) -> Any:
        return self.launch(
            *(self.recipe, *OPTIONS, "--out", self.run.parent),
            program=(str(self.script),),
            environment={"RECORDS_FILE": str(self.records)},
        )

    def saving(self) -> list[str]:
        """Return the checkpoints that are being written: their names are hidden until they are whole."""
        folder = self.run / "checkpoints" / "asr"
        return [path.name for path in folder.glob(".*")] if folder.is_dir() else []

    def lines(self) -> list[dict[str, Any]]:
        """Return the last lines of the metrics, cheaply."""
        try:
            text = (self.run / "metrics.jsonl").read_bytes()[-2000:]
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.split(b"\n")[1:-1] if line.endswith(b"}")]

    def step(self) -> int:
        return max((line["step"] for line in self.lines() if "loss" in line), default=0)

    def validating(self) -> bool:
        """Whether the last line is the loss of a step after which a validation is due."""
        last = self.lines()[-1:]
        return bool(last) and "loss" in last[0] and last[0]["step"] % 4 == 0

    def kill(self, aim: str, random: Random) -> str:
        """Start, wait for the moment, kill; return what was hit."""
        training = self.start()
        if aim == "start":
            time.sleep(random.uniform(0.5, 6.0))
            assert training.process.poll() is None, training.output
        else:
            # Some steps at least: it shall get on.
            training.says("Training asr")
            before, stale = self.step(), set(self.saving())
            ahead = random.randint(3, 5)
            training.wait_until(lambda: self.step() >= before + ahead, pause=0.001)
            if aim == "step":
                time.sleep(random.uniform(0, 0.3))
            elif aim == "save":
                training.wait_until(lambda: set(self.saving()) - stale, pause=0)
            else:
                training.wait_until(self.validating, pause=0)
                time.sleep(random.uniform(0, 0.02))
        os.kill(training.process.pid, signal.SIGKILL)
        assert training.end() == -signal.SIGKILL, training.output
        # A kill in a save leaves one that is not whole, one in a validation its step's loss alone.
        hit = {"save": bool(self.saving()), "validation": self.validating()}.get(aim, True)
        return f"{aim:10} at step {self.step():3}{'' if hit else ' (came a moment too late)'}"


def read_records(path: Path) -> Iterator[list[str]]:
    """Yield the names of each micro-batch in order; one that was read again has to hold the same."""
    batches: dict[int, list[str]] = {}
    for line in path.read_text().splitlines():
        index, names = json.loads(line)
        assert batches.setdefault(index, names) == names
    assert list(batches) == list(range(len(batches)))
    yield from batches.values()


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_kill_9_leaves_no_trace(launch: Launch, recipe_file: Path, tmp_path: Path) -> None:
    random, began = Random(0), time.monotonic()
    whole = Victim(launch, recipe_file, tmp_path / "whole", tmp_path / "whole.jsonl")
    reference = whole.start()
    victim = Victim(launch, recipe_file, tmp_path / "runs", tmp_path / "killed.jsonl")
    aims = [aim for aim, number in KILLS.items() for _ in range(number)]
    random.shuffle(aims)
    for number, aim in enumerate(aims):
        hit = victim.kill(aim, random)
        print(f"\nkill {number + 1:2}: {hit}", end="", flush=True)
    last = victim.step()
    assert last + AFTER <= STEPS
    end = victim.start()
    assert end.end() == 0, end.output
    assert reference.end() == 0, reference.output
    found, expected = end.curve(victim.run), end.curve(whole.run)
    for number, (line, other) in enumerate(zip(found, expected, strict=False)):
        around = f"{found[max(number - 4, 0) : number + 4]}\n{expected[max(number - 4, 0) : number + 4]}"
        assert (line["step"], "loss" in line) == (other["step"], "loss" in other), around
    losses = [(a["loss"], b["loss"]) for a, b in zip(found, expected, strict=True) if "loss" in a]
    same = sum(a == b for a, b in losses[last : last + AFTER])
    print(
        f"\n{len(aims)} kills, {sum(a == b for a, b in losses)} of {STEPS} losses identical, {same} of the "
        f"{AFTER} after the last kill; {time.monotonic() - began:.0f} s"
    )
    assert found == expected
    weights = "weights/asr.safetensors"
    assert (victim.run / weights).read_bytes() == (whole.run / weights).read_bytes()
    read, meant = (
        [name for names in read_records(path) for name in names] for path in (victim.records, whole.records)
    )
    assert read == meant
    epochs = [read[i : i + RECORDS] for i in range(0, len(read), RECORDS)]
    assert len(epochs) > 5
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert not victim.saving()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 16 MB, which takes root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk(
    launch: Launch,
    recipe_file: Path,
    make_run: Make,
    small_disk: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A save that finds no room says so, leaves the one before it as it was, and the run goes on later."""
    options = ("stages.asr.steps=12", "stages.asr.checkpoint={every: 3, keep: 9}")
    run = small_disk / run_name("small", options)
    training = launch(recipe_file, *options, "--out", run.parent)
    training.wait_until((run / "checkpoints" / "asr" / "step-00000003").exists)
    files = list((run / "checkpoints" / "asr" / "step-00000003").iterdir())
    before = {path: path.read_bytes() for path in files}
    filler = small_disk / "filler"
    room = sum(map(len, before.values())) // 2
    disk = os.statvfs(small_disk)
    filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize - room))
    assert training.end() == 1, training.output
    assert "Traceback" not in training.output
    assert re.search(
        r"error: .*the checkpoint could not be written: No space left on device", training.output
    )
    saved = sorted((run / "checkpoints" / "asr").glob("step-*"))
    assert {path: path.read_bytes() for path in files} == before
    filler.unlink()
    train(RunFolder.open(run))
    assert f"going on after step {int(saved[-1].name[5:])}" in capsys.readouterr().err
    whole = make_run("whole", *options)
    train(whole)
    assert training.curve(run) == training.curve(whole.path)
    weights = "weights/asr.safetensors"
    assert (run / weights).read_bytes() == (whole.path / weights).read_bytes()
