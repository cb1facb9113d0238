"""Trainings as processes: signals in every phase, launchers, ranks that die."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kikimimi.cli import main
from kikimimi.errors import RequestError
from kikimimi.recipe import Trainer
from kikimimi.run.folder import RunFolder, run_name
from kikimimi.run.rank import child_of_lightning, global_rank, local_rank, slurm_starts_ranks
from kikimimi.training.launcher import check_launcher
from kikimimi.training.train import train

from .conftest import Launch, Make, assert_same

ALONE = ("-m", "kikimimi.cli")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", *ALONE)
DDP = ("trainer.devices=2", "trainer.strategy=ddp")
LONG = ("stages.asr.steps=60", "stages.asr.checkpoint.every=1000", "stages.asr.checkpoint.keep=2")

EXACT = ("llm.scratch.dropout=0",)
"""Without it, ranks draw other random numbers than one process does."""


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints" / "asr").glob("step-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_in_the_middle(
    launch: Launch, recipe_file: Path, tmp_path: Path, make_run: Make, number: signal.Signals
) -> None:
    whole, run = make_run("whole", *LONG).path, tmp_path / "runs" / run_name("small", LONG)
    training = launch(recipe_file, *LONG, "--out", run.parent)
    training.wait_until(lambda: training.steps(run) > 10)
    training.process.send_signal(number)
    assert training.end() == 143
    assert training.steps(run) < 60
    assert f"stopped by {number.name}. Run the same command again" in training.output
    assert "Traceback" not in training.output
    (saved,) = checkpoints(run)
    assert saved == f"step-{training.steps(run):08d}"
    for path in (run, whole):
        train(RunFolder.open(path))
    assert training.curve(run) == training.curve(whole)
    assert (run / "weights/asr.safetensors").read_bytes() == (whole / "weights/asr.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["run folder:", "Encoding clips once"])
def test_a_signal_before_the_first_step(
    launch: Launch, recipe_file: Path, tmp_path: Path, make_run: Make, phase: str
) -> None:
    training = launch(recipe_file, "--out", tmp_path / "runs")
    training.says(phase)
    training.process.send_signal(signal.SIGUSR1)
    assert training.end() == 143
    assert "stopped by SIGUSR1. Run the same command again" in training.output
    assert "Traceback" not in training.output
    run = make_run("small")
    train(run)
    assert training.steps(run.path) == 8


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("fsdp", marks=pytest.mark.slow),
        # A minute and a half each, and of the same kind: by hand.
        *(pytest.param(case, marks=pytest.mark.chaos) for case in ("torchrun", "one rank", "lightning")),
    ],
)
def test_a_signal_to_two_ranks(
    launch: Launch, recipe_file: Path, tmp_path: Path, make_run: Make, case: str
) -> None:
    """Sent to the launcher, which passes it on, or to one rank alone: all save, none is waited for."""
    alone = case in ("lightning", "fsdp")
    strategy = "fsdp" if case == "fsdp" else "ddp"
    options = [*LONG, *EXACT, DDP[0], f"trainer.strategy={strategy}"]
    whole, run = make_run("whole", *LONG, *EXACT), tmp_path / "runs" / run_name("small", options)
    program = ALONE if alone else TORCHRUN
    training = launch(recipe_file, *options, "--out", run.parent, program=program)
    training.wait_until(lambda: training.steps(run) > 5)
    if case == "one rank":
        os.kill(training.children()[-1], signal.SIGUSR1)
    else:
        training.process.send_signal(signal.SIGTERM)
    code = training.end()
    assert code == (143 if alone else 1)  # torchrun has an exit code of its own
    assert "stopped by SIG" in training.output
    assert len(checkpoints(run)) == 1
    again = launch(recipe_file, *options, "--out", run.parent, program=program)
    assert again.end() == 0, again.output
    # That ranks go on bit for bit is held by test_fsdp.py; here the steps are those of one process.
    train(whole)
    assert_same(training.curve(run), training.curve(whole.path))


@pytest.mark.slow
@pytest.mark.parametrize("program", [TORCHRUN, ALONE])
def test_a_rank_that_dies_ends_the_others(
    launch: Launch, recipe_file: Path, tmp_path: Path, program: tuple[str, ...]
) -> None:
    run = tmp_path / "runs" / run_name("small", [*LONG, *DDP])
    training = launch(recipe_file, *LONG, *DDP, "--out", run.parent, program=program)
    training.wait_until(lambda: training.steps(run) > 5)
    os.kill(training.children()[-1], signal.SIGKILL)
    assert training.end() != 0
    assert training.steps(run) < 60
    assert re.search(r"error: rank 0: another rank ended \(.*What that one said is", training.output)
    assert "Traceback" not in training.output.partition("error: rank 0")[0]


def test_torchrun_and_recipe_disagree(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)  # what torchrun tells each rank
    monkeypatch.setattr("sys.argv", ["kikimimi", "train", str(recipe_file), "--out", str(tmp_path / "runs")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "trainer.devices=1, trainer.nodes=1: but torchrun started 2 processes" in said


CLEAN = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_JOB_NAME",
)
SLURM = {"SLURM_NTASKS": "16", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "8", "SLURM_STEP_ID": "0"}
ONE, EIGHT, SIXTEEN = Trainer(), Trainer(devices=8), Trainer(devices=8, nodes=2)


@pytest.mark.parametrize(
    ("environment", "trainer", "error"),
    [
        ({}, ONE, None),
        ({}, EIGHT, None),
        ({}, SIXTEEN, r"no launcher started the ranks of 2 nodes .*docs/launching\.md"),
        ({"RANK": "3", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}, SIXTEEN, None),
        (
            {"RANK": "3", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"},
            EIGHT,
            r"trainer\.devices=8, trainer\.nodes=1: but torchrun started 16 processes, 8 per node\. "
            r"Add trainer\.devices=8 trainer\.nodes=2",
        ),
        ({**SLURM, "SLURM_PROCID": "3"}, SIXTEEN, None),
        (SLURM, EIGHT, r"the Slurm job has 16 processes, 8 per node \(its tasks\)\. Add .*trainer\.nodes=2"),
        ({**SLURM, "SLURM_JOB_NAME": "bash"}, EIGHT, None),
        (
            {k: v for k, v in SLURM.items() if k != "SLURM_STEP_ID"},
            SIXTEEN,
            r"16 tasks, and this process was not started by srun.*Write srun before",
        ),
        (
            {k: v for k, v in SLURM.items() if k != "SLURM_NTASKS_PER_NODE"},
            SIXTEEN,
            r"the Slurm job has --ntasks=16: write --ntasks-per-node=8",
        ),
    ],
)
def test_the_launcher_agrees_with_the_recipe(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], trainer: Trainer, error: str | None
) -> None:
    for name in (*CLEAN, *SLURM):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if error is None:
        check_launcher(trainer)
    else:
        with pytest.raises(RequestError, match=error):
            check_launcher(trainer)


@pytest.mark.parametrize(
    ("environment", "rank", "local", "child", "slurm"),
    [
        ({}, 0, 0, False, False),
        ({"RANK": "9", "LOCAL_RANK": "1"}, 9, 1, False, False),
        ({"LOCAL_RANK": "1"}, 1, 1, True, False),
        ({"LOCAL_RANK": "0"}, 0, 0, False, False),
        ({"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8"}, 5, 1, False, True),
        # torchrun inside Slurm
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "RANK": "3", "LOCAL_RANK": "1"}, 3, 1, False, False),
    ],
)
def test_who_this_process_is(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    rank: int,
    local: int,
    child: bool,
    slurm: bool,
) -> None:
    for name in (*CLEAN, *SLURM):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (global_rank(), local_rank()) == (rank, local)
    assert (child_of_lightning(), slurm_starts_ranks()) == (child, slurm)


def test_ranks_that_start_together_share_a_folder(make_run: Make, tmp_path: Path) -> None:
    run = make_run("run")
    begun = tmp_path / "runs" / "begun"
    begun.mkdir()
    (begun / ".recipe.yaml.1.tmp").write_text("name: ")  # what another rank is just writing
    assert RunFolder.create(begun, run.recipe).recipe == run.recipe


# What srun does, for one node: starts the tasks, passes signals on, ends with the highest exit code.
SRUN = """#!{python}
import os, signal, subprocess, sys
command = [word for word in sys.argv[1:] if not word.startswith("--kill-on-bad-exit")]
tasks = []
for rank in range(int(os.environ["SLURM_NTASKS"])):
    own = dict(SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), SLURM_NODEID="0", SLURM_STEP_ID="0")
    tasks.append(subprocess.Popen(command, env=os.environ | own))
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: [task.send_signal(number) for task in tasks])
sys.exit(max(code if code >= 0 else 128 - code for code in [task.wait() for task in tasks]))
"""
SBATCH = Path(__file__).parents[3] / "docs" / "slurm.sbatch"


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Write pretended commands of Slurm; return the environment of a job of two tasks on one node."""
    programs = {
        "srun": SRUN.format(python=sys.executable),
        "scontrol": f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\n',
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "kikimimi",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODELIST": "127.0.0.1",
    }


def requeued(tmp_path: Path) -> list[str]:
    file = tmp_path / "scontrol.txt"
    return file.read_text().splitlines() if file.is_file() else []


@pytest.mark.slow
def test_a_slurm_job_is_put_back_in_line_and_goes_on(
    launch: Launch,
    recipe_file: Path,
    tmp_path: Path,
    make_run: Make,
    slurm: dict[str, str],
) -> None:
    options = ["trainer.strategy=ddp", *LONG, *EXACT, "--out", str(tmp_path / "runs")]
    command = ["bash", str(SBATCH), str(recipe_file), *options]
    run = tmp_path / "runs" / run_name("small", [*LONG, *EXACT, *DDP, "trainer.nodes=1"])
    job = launch(command=command, environment=slurm)
    job.wait_until(lambda: job.steps(run) > 5)
    (srun,) = job.children()
    os.kill(srun, signal.SIGUSR1)
    assert job.end() == 143, job.output
    assert "stopped by SIGUSR1" in job.output
    assert "Traceback" not in job.output
    assert requeued(tmp_path) == ["requeue 4711"]
    (saved,) = checkpoints(run)
    assert saved == f"step-{job.steps(run):08d}"
    assert not list(tmp_path.rglob("hpc_ckpt*"))  # Lightning's own answer
    again = launch(command=command, environment=slurm)
    assert again.end() == 0, again.output
    assert f"going on after step {int(saved[5:])}" in again.output
    assert len(requeued(tmp_path)) == 1
    whole = make_run("whole", *LONG, *EXACT)
    train(whole)
    assert_same(again.curve(run), again.curve(whole.path))


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, False), (2, False), (143, True)])
def test_which_slurm_jobs_are_put_back_in_line(
    tmp_path: Path, slurm: dict[str, str], code: int, again: bool
) -> None:
    (tmp_path / "bin" / "srun").write_text(
        f'#!/bin/sh\necho "$@ $SRUN_CPUS_PER_TASK" > {tmp_path}/srun.txt\nexit {code}\n'
    )
    job = {**os.environ, **slurm, "SLURM_CPUS_PER_TASK": "8"}
    done = subprocess.run(["bash", SBATCH, "a.yaml", "seed=1"], env=job, check=False)
    assert done.returncode == code
    assert requeued(tmp_path) == (["requeue 4711"] if again else [])
    words = "--kill-on-bad-exit=1 kikimimi train a.yaml seed=1 trainer.devices=2 trainer.nodes=1 8"
    assert (tmp_path / "srun.txt").read_text().strip() == words


def test_a_cancelled_slurm_job_is_not_put_back(tmp_path: Path, slurm: dict[str, str]) -> None:
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\nkill -TERM $PPID\nexit 143\n")
    done = subprocess.run(["bash", SBATCH, "a.yaml"], env={**os.environ, **slurm}, check=False)
    assert done.returncode == 143
    assert requeued(tmp_path) == []
