"""Sweeps that really train, in processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.engine import Ended, Job, RunEngine
from kikimimi.sweeps.local import Local
from kikimimi.sweeps.plan_of_runs import Sweep
from kikimimi.sweeps.prepare import prepare
from kikimimi.sweeps.source import Listed
from kikimimi.sweeps.sweep import Leader
from kikimimi.sweeps.sweep_file import read_sweep
from kikimimi.sweeps.sweep_folder import SweepFolder, is_finished

BROKEN = """
recipe: small.yaml
factors: {{adapter: [mlp, conv]}}
variants:
  data:
    whole: {{}}
    broken: {{stages.asr.data.tones.shards: "{broken}"}}
exclude: [{{adapter: conv, data: broken}}]
seeds: [0]
"""


def lead(sweep: Sweep, out: Path, *, retry: bool = False, slots: int = 2) -> tuple[SweepFolder, Counter[str]]:
    prepared = prepare(sweep)
    assert not prepared.invalid
    folder = SweepFolder.create(out, sweep)
    with folder.held():
        prepared.write(folder)
        leader = Leader(folder, Local(slots), prepared.source(folder, retry=retry), lambda _: None)
        return folder, leader.lead()


def damaged_copy(shards: Path, tmp_path: Path) -> tuple[Path, bytes]:
    """Return a shard whose clips are damaged, which is found when they are read, and its bytes before."""
    broken = tmp_path / "broken" / "train-000000.tar"
    broken.parent.mkdir()
    for name in ("train-000000.tar", "train-000000.tar.index.safetensors"):
        (broken.parent / name).write_bytes((shards / name).read_bytes())
    whole = broken.read_bytes()
    broken.write_bytes(whole[:1500] + bytes(byte ^ 0x55 for byte in whole[1500:]))
    return broken, whole


def states(folder: SweepFolder) -> dict[str, str]:
    found = SweepFolder.open(folder.path).states()
    return {run.setting: found[run.name].state for run in folder.runs}


def trained_at(run: Path) -> float:
    return (run / "weights" / "asr.safetensors").stat().st_mtime


def test_a_crash_stops_no_other_run_and_is_told_and_retried_alone(
    recipe: Path, shards: Path, tmp_path: Path
) -> None:
    broken, whole = damaged_copy(shards, tmp_path)
    file = tmp_path / "data.yaml"
    file.write_text(BROKEN.format(broken=broken))

    folder, found = lead(read_sweep(file).complete(), tmp_path / "runs")
    assert found == {"finished": 2, "failed": 1}
    expected = {"adapter=mlp, data=whole": "finished", "adapter=mlp, data=broken": "failed"}
    assert states(folder) == {**expected, "adapter=conv, data=whole": "finished"}
    (failed,) = [state for state in folder.states().values() if state.state == "failed"]
    assert "the bytes are not those that were indexed" in failed.cause
    before = {run.name: trained_at(run.path) for run in folder.runs if is_finished(run.path)}
    assert len(before) == 2

    broken.write_bytes(whole)
    folder, found = lead(read_sweep(file).complete(), tmp_path / "runs", retry=True)
    assert found == {"finished": 1}
    assert set(states(folder).values()) == {"finished"}
    assert {name: trained_at(tmp_path / "runs" / name) for name in before} == before

    # Another sweep of the same recipes trains none of them.
    other = Sweep(name="other", recipe=recipe).changed(["adapter=conv,mlp", "seed=0"]).complete()
    again, found = lead(other, tmp_path / "runs")
    assert found == {}
    assert set(states(again).values()) == {"finished"}
    assert {run.name for run in again.runs} == before.keys()


def test_runs_of_a_sweep_are_those_of_the_commands(recipe: Path, tmp_path: Path) -> None:
    """In a forked process, with others beside it or after others in it, a run is what it is by hand."""
    from kikimimi.run.metrics import read_metrics
    from kikimimi.training.log_interval import MEASURED
    from kikimimi.training.train import train

    cores = len(os.sched_getaffinity(0))  # slots: one thread each, as tests have
    seeds = ",".join(map(str, range(3, 4 + cores)))
    sweep = Sweep(name="one", recipe=recipe).changed([f"seed={seeds}"]).complete()
    folder, _ = lead(sweep, tmp_path / "runs", slots=cores)
    torch.set_num_threads(1)
    for index in (1, cores):  # the last one comes into a process that has done another
        by_hand = RunFolder.create(tmp_path / f"alone{index}", sweep.recipe_of(list(sweep.grid())[index]))
        train(by_hand)
        lines = []
        for run in (folder.runs[index].path, by_hand.path):
            own = [line for line in read_metrics(run / "metrics.jsonl") if "cer/held_out" not in line]
            lines.append([{k: v for k, v in line.items() if k not in MEASURED} for line in own])
        assert lines[0] == lines[1]
        assert folder.log(folder.runs[index]).read_text().startswith("$ kikimimi train ")


class Ends(RunEngine):
    """Ends each run at once, with one exit code."""

    slots = 1

    def __init__(self, code: int) -> None:
        self.code = code

    def start(self, job: Job) -> None:
        self.job = job

    def wait(self, seconds: float) -> list[Ended]:
        return [Ended(name=self.job.name, code=self.code, seconds=1.0)]

    def stop(self, name: str) -> None:
        pass

    def close(self) -> None:
        pass


def test_memory_is_measured_anew_after_each_run() -> None:
    from kikimimi.sweeps.tidy import tidy
    from kikimimi.training.log_interval import peak_memory

    tidy()
    before = peak_memory()
    held = torch.ones(300, 1024, 1024, dtype=torch.uint8)
    assert peak_memory() - before > 200 * 2**20
    del held
    tidy()
    assert peak_memory() - before < 100 * 2**20


def test_a_report_that_cannot_be_written_stops_no_run(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: SweepFolder) -> None:
        raise ValueError("no place")

    monkeypatch.setattr("kikimimi.sweeps.sweep.BETWEEN_REPORTS", 0.0)
    monkeypatch.setattr("kikimimi.sweeps.sweep._REPORTING", float("inf"))
    sweep = Sweep(name="some", recipe=recipe_file).changed(["seed=0,1,2"]).complete()
    prepared, folder = prepare(sweep), SweepFolder.create(tmp_path / "runs", sweep)
    prepared.write(folder)
    found = Leader(folder, Ends(0), prepared.source(folder, retry=False), fails).lead()
    assert found == {"finished": 3}
    assert capsys.readouterr().err.count("the report cannot be written now: no place") == 3


@pytest.mark.parametrize(
    ("trained", "code", "state"),
    [(True, 143, "finished"), (True, 0, "finished"), (False, 143, "pruned"), (False, 0, "pruned")],
)
def test_a_run_that_was_pruned_may_have_ended_before(
    make_sweep: Any, trained: bool, code: int, state: str
) -> None:
    folder = make_sweep(a=[])
    (run,) = folder.runs
    if trained:
        for name in ("weights/asr.safetensors", "evaluations/held_out/scores.json"):
            (run.path / name).parent.mkdir(parents=True)
            (run.path / name).touch()
    leader = Leader(folder, Ends(code), Listed([]), lambda _: None)
    leader._running[run.name] = run, "validation loss 9"
    leader._ended(Ended(name=run.name, code=code, seconds=1.0))
    assert folder.states()["a"].state == state


def test_between_two_commands_a_signal_still_stops(tmp_path: Path) -> None:
    code = (
        "import os, signal, time\n"
        "from kikimimi.sweeps.work import _call\n"
        "assert _call(['--help']) == 0\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == -signal.SIGTERM


def test_a_search_draws_learns_and_goes_on(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    asked = Sweep(name="found", recipe=recipe, search="tpe", runs=2)
    asked = asked.changed(["stages.asr.train.adapter.lr=1e-5..1e-1:log", "adapter=mlp,conv"]).complete()
    folder, found = lead(asked, tmp_path / "runs")
    assert found == {"finished": 2}
    drawn = {run.name for run in folder.runs}
    assert len({run.setting for run in folder.runs}) == 2
    folder, found = lead(replace(asked, runs=3), tmp_path / "runs")
    assert found == {"finished": 1}
    assert drawn < {run.name for run in folder.runs}


@pytest.mark.slow
def test_a_run_of_two_processes_is_one_job(recipe: Path, tmp_path: Path) -> None:
    changes = ["seed=0,1", "trainer.devices=2", "trainer.strategy=ddp", "stages.asr.batch.global=2"]
    sweep = Sweep(name="two", recipe=recipe).changed(changes).complete()
    folder, found = lead(sweep, tmp_path / "runs", slots=1)
    assert found == {"finished": 2}, folder.log(folder.runs[0]).read_text()


@pytest.mark.slow
def test_many_runs_of_which_three_crash(recipe: Path, shards: Path, tmp_path: Path) -> None:
    broken, whole = damaged_copy(shards, tmp_path)
    file = tmp_path / "twenty.yaml"
    file.write_text(
        "recipe: small.yaml\n"
        "factors: {adapter.hidden_dim: [8, 16, 24, 32, 40, 48, 56]}\n"
        "variants:\n"
        f"  data: {{whole: {{}}, broken: {{stages.asr.data.tones.shards: '{broken}'}}}}\n"
        "exclude: [{data: broken, adapter.hidden_dim: [8, 16, 24, 32, 40, 48]},"
        " {data: whole, adapter.hidden_dim: 56}]\n"
        "seeds: [0, 1, 2]\n"
    )
    sweep = read_sweep(file, ["adapter.hidden_dim=8,16,24,32,40,48,56"]).complete()
    folder, found = lead(sweep, tmp_path / "runs")
    assert found == {"finished": 18, "failed": 3}
    broken.write_bytes(whole)
    _, found = lead(sweep, tmp_path / "runs", retry=True)
    assert found == {"finished": 3}
    assert set(states(folder).values()) == {"finished"}


def command(recipe: Path, out: Path) -> list[str]:
    changes = ["adapter=mlp,conv", "stages.asr.steps=100000", "stages.asr.validate.every=0"]
    return [sys.executable, "-m", "kikimimi.cli", "sweep", str(recipe), *changes, "--out", str(out)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_leader_that_is_stopped_takes_its_runs_with_it(
    recipe: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "runs"
    leader = subprocess.Popen([*command(recipe, out), "--processes", "2"], stderr=subprocess.DEVNULL)
    _until(lambda: sum("loss" in path.read_text() for path in out.glob("small*/metrics.jsonl")) == 2)
    leader.send_signal(number)
    assert leader.wait(60) == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    runs = [RunFolder.open(path) for path in out.glob("small*")]
    _until(lambda: not any(run.is_locked() for run in runs))
    for run in runs:
        assert list(run.checkpoints("asr").glob("step-*"))  # what was done is kept
    assert not any(run.finished("asr") for run in runs)


def _until(done: object, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.1)
