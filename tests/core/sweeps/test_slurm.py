"""Sweeps as arrays of Slurm jobs: the files, run by bash with pretended commands of Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kikimimi.errors import DamagedError, RequestError
from kikimimi.sweeps import slurm
from kikimimi.sweeps.slurm import note_ended, write_array
from kikimimi.sweeps.sweep_folder import SweepFolder, is_finished

MakeSweep = Callable[..., SweepFolder]

# What srun does, for one task on one node.
SRUN = """#!{python}
import os, sys
command = [word for word in sys.argv[1:] if not word.startswith("--kill-on-bad-exit")]
os.environ |= dict(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0", SLURM_STEP_ID="0")
os.execv(command[0], command)
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Write pretended commands of Slurm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write_program(folder / "srun", SRUN.format(python=sys.executable))
    write_program(folder / "scontrol", f"#!/bin/sh\necho \"$@\" >> '{tmp_path}/scontrol.txt'\n")
    write_program(folder / "sbatch", f"#!/bin/sh\necho \"$@\" >> '{tmp_path}/sbatch.txt'\necho '4711;here'\n")
    return folder


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run_task(array: Path, number: int, programs: Path) -> int:
    """Run a task of an array; return its exit code."""
    job = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(4711 + number),
        "SLURM_ARRAY_JOB_ID": "4711",
        "SLURM_ARRAY_TASK_ID": str(number),
        "SLURM_JOB_NAME": "sweep",
        "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "1",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_CPUS_PER_TASK": "3",
    }
    return subprocess.run(["bash", array], env={**os.environ, **job}, check=False).returncode


def options(script: Path) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if "#SBATCH" in line]


def test_what_an_array_asks_for(make_sweep: MakeSweep) -> None:
    folder = make_sweep(a=[], b=["seed=1"])
    array, merge = write_array(folder, folder.runs, ["--time=04:00:00", "-p gpu", "--mem=8G"])
    logs = folder.path / "logs"
    assert options(array) == [
        "--time=04:00:00",
        "-p gpu",
        "--mem=8G",
        "--job-name='small sweep'",
        "--array=1-2",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--cpus-per-task=1",
        "--signal=USR1@90",
        "--requeue",
        "--open-mode=append",
        f"--output='{logs}/slurm-%A_%a.log'",
    ]
    assert options(merge) == [
        "-p gpu",
        "--job-name='small sweep-report'",
        "--ntasks=1",
        f"--output='{logs}/report-%j.log'",
    ]
    assert array.with_suffix(".runs").read_text() == "a\nb\n"
    assert logs.is_dir()


def test_runs_with_other_needs_are_in_other_arrays(make_sweep: MakeSweep) -> None:
    many = [
        "stages.asr.batch.global=8",
        "trainer.devices=4",
        "trainer.nodes=2",
        "trainer.accelerator=auto",
        "trainer.workers=3",
    ]
    folder = make_sweep(a=[], b=many, c=[])
    first, second, _ = write_array(folder, folder.runs)
    assert first.with_suffix(".runs").read_text() == "a\nc\n"
    assert second.with_suffix(".runs").read_text() == "b\n"
    asked = {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=4", "--array=1-1"}
    assert asked <= set(options(second))
    assert not [one for one in options(first) if "gpus" in one]


def test_an_option_that_is_given_is_ours_no_more(make_sweep: MakeSweep) -> None:
    folder = make_sweep(a=["trainer.accelerator=auto"])
    array, _ = write_array(folder, folder.runs, ["--gpus-per-node=h100:1", "-c 16"])
    assert options(array)[:2] == ["--gpus-per-node=h100:1", "-c 16"]
    assert not [one for one in options(array)[2:] if "gpus" in one or "cpus" in one]


@pytest.mark.parametrize("option", ["--array=1-9", "--nodes 2", "-N2", "-N 2", "--ntasks=3", "--output=x"])
def test_options_that_follow_from_the_recipe(make_sweep: MakeSweep, option: str) -> None:
    folder = make_sweep(a=[])
    with pytest.raises(
        RequestError, match=r"--array, .* --nodes, .* follow from the sweep and from trainer.devices"
    ):
        write_array(folder, folder.runs, [option])


@pytest.mark.parametrize("option", ["time=1", "", "--time=1\n#SBATCH --mem=1", "--", "--Time=1"])
def test_what_is_no_option(make_sweep: MakeSweep, option: str) -> None:
    folder = make_sweep(a=[])
    with pytest.raises(RequestError, match="expected an option for sbatch, such as --sbatch --time=04:00:00"):
        write_array(folder, folder.runs, [option])


def test_an_array_is_never_too_large(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "LARGEST_ARRAY", 2)
    folder = make_sweep(a=[], b=[], c=[])
    *arrays, _ = write_array(folder, folder.runs)
    assert [array.with_suffix(".runs").read_text() for array in arrays] == ["a\nb\n", "c\n"]


def test_a_list_that_tasks_may_wait_for_is_kept(make_sweep: MakeSweep) -> None:
    folder = make_sweep(a=[], b=[])
    first, merge = write_array(folder, folder.runs)
    second, same = write_array(folder, folder.runs[1:])
    assert first != second
    assert merge == same
    assert first.with_suffix(".runs").read_text() == "a\nb\n"


def test_nothing_to_submit(make_sweep: MakeSweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_array(make_sweep(a=[]), []) == []
    assert capsys.readouterr().err == "every run is trained: there is nothing to submit\n"


def test_the_two_commands(
    make_sweep: MakeSweep, programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_sweep("a sweep's", a=[], b=["trainer.workers=1"])
    first, second, merge = write_array(folder, folder.runs)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "2 runs in 2 arrays. To submit them, and the report:"
    done = subprocess.run(
        ["bash", "-e"],
        input="\n".join(told[1:]),
        text=True,
        env={**os.environ, "PATH": f"{programs}:/usr/bin:/bin"},
    )
    assert done.returncode == 0
    assert (tmp_path / "sbatch.txt").read_text().splitlines() == [
        f"--parsable {first}",
        f"--parsable {second}",
        f"--dependency=afterany:4711:4711 {merge}",
    ]


@pytest.mark.parametrize("name", ["plain", 'a sweep\'s $HOME `id` "x" %j'])
def test_bash_reads_the_files(make_sweep: MakeSweep, name: str) -> None:
    folder = make_sweep(name, a=[])
    for script in write_array(folder, folder.runs, ["--comment='a b'"]):
        assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
        output = next(one for one in options(script) if one.startswith("--output="))
        assert "%%j" in output or "%j" not in name


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, False), (2, False), (143, True)])
def test_what_becomes_of_a_task(
    make_sweep: MakeSweep, programs: Path, tmp_path: Path, code: int, again: bool
) -> None:
    write_program(
        programs / "srun",
        f'#!/bin/sh\necho "$@" $OMP_NUM_THREADS $SRUN_CPUS_PER_TASK >> {tmp_path}/srun.txt\n'
        f'echo "error: said so"\nexit {code}\n',
    )
    folder = make_sweep(a=[], b=["seed=1"])
    array, _ = write_array(folder, folder.runs)
    assert run_task(array, 2, programs) == code
    run = folder.out / "b"
    commands = ["train", "evaluate"] if code == 0 else ["train"]
    assert (tmp_path / "srun.txt").read_text().splitlines() == [
        f"--kill-on-bad-exit=1 {sys.executable} -m kikimimi.cli {command} {run} 3 3" for command in commands
    ]
    said = "".join(f"$ kikimimi {command} {run}\nerror: said so\n" for command in commands)
    assert folder.log(folder.runs[1]).read_text() == said
    requeued = tmp_path / "scontrol.txt"
    assert (requeued.read_text() if requeued.is_file() else "") == ("requeue 4713\n" if again else "")
    note_ended(folder)
    note_ended(folder)  # what is noted is noted once
    state = folder.states()["b"]
    assert (state.state, state.cause) == {
        0: ("finished", ""),
        143: ("waiting", ""),
    }.get(code, ("failed", "said so"))
    assert len((folder.path / "events.jsonl").read_text().splitlines() if not again else []) == (not again)


def test_a_cancelled_task_is_not_put_back(make_sweep: MakeSweep, programs: Path, tmp_path: Path) -> None:
    write_program(programs / "srun", "#!/bin/sh\nkill -TERM $PPID\nexit 143\n")
    folder = make_sweep(a=[])
    array, _ = write_array(folder, folder.runs)
    assert run_task(array, 1, programs) == 143
    assert not (tmp_path / "scontrol.txt").exists()
    note_ended(folder)
    assert folder.states()["a"].state == "waiting"


def test_a_task_without_a_run(make_sweep: MakeSweep, programs: Path) -> None:
    folder = make_sweep(a=[])
    array, _ = write_array(folder, folder.runs)
    assert run_task(array, 2, programs) == 2


def test_what_a_task_leaves_is_damaged(make_sweep: MakeSweep) -> None:
    folder = make_sweep(a=[])
    write_array(folder, folder.runs)
    (folder.path / "slurm" / "a.ended").write_text("1 x\n")
    with pytest.raises(
        DamagedError, match=r"a\.ended: is not an exit code and a number of seconds\. Delete it"
    ):
        note_ended(folder)


@pytest.mark.slow
def test_runs_are_trained(make_sweep: MakeSweep, programs: Path) -> None:
    folder = make_sweep(good=[], bad=["stages.asr.data.tones.shards=none-*.tar"])
    array, merge = write_array(folder, folder.runs)
    assert run_task(array, 1, programs) == 0
    assert is_finished(folder.out / "good")
    assert run_task(array, 2, programs) == 2
    done = subprocess.run(["bash", merge], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{folder.report}\n"), done.stderr
    states = folder.states()
    assert states["good"].state == "finished"
    assert states["bad"].state == "failed"
    assert "none-*.tar" in states["bad"].cause
    # The next array has what is left.
    left, _ = write_array(folder, [run for run in folder.runs if not is_finished(run.path)])
    assert left.with_suffix(".runs").read_text() == "bad\n"
