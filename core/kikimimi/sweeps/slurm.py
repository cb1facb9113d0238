"""Runs of a sweep as arrays of Slurm jobs: files for sbatch, and what their tasks leave about how they ended.

slurm/array-HASH.sbatch   one task per run; runs that need other machines are in another array
slurm/array-HASH.runs     its runs, one a line; never changed, as tasks may wait for days
slurm/merge.sbatch        writes the report when all of them have ended
slurm/RUN.ended           exit code and seconds of a task, until they are taken note of
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kikimimi.console.terminal import say
from kikimimi.console.words import counted, listing
from kikimimi.errors import RequestError
from kikimimi.files.reading import damaged, read_text
from kikimimi.files.writing import whole_file, writing
from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.failure import failure_cause
from kikimimi.sweeps.sweep_folder import SweepFolder, SweepRun
from kikimimi.sweeps.work import COMMAND_LINE, COMMANDS

LARGEST_ARRAY = 1000
"""Tasks of one array: Slurm allows no more unless the site says so (MaxArraySize)."""
GRACE = 90
"""How long before its time is up a task is told to save and end [s]."""
_SHORT = {
    "A": "account",
    "C": "constraint",
    "J": "job-name",
    "M": "clusters",
    "N": "nodes",
    "a": "array",
    "c": "cpus-per-task",
    "d": "dependency",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "t": "time",
}
_OURS = ("array", "nodes", "ntasks", "ntasks-per-node", "output", "dependency")
_ALSO_MERGE = ("account", "clusters", "constraint", "partition", "qos", "reservation")

_ARRAY = """\
#!/bin/bash
# Runs of the sweep {sweep}, one per array task. Written by: kikimimi sweep ... --engine slurm --dry-run
{options}

# srun takes this from nowhere else (Slurm 22.05 and later).
export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-1}}"
export OMP_NUM_THREADS="$SRUN_CPUS_PER_TASK" MKL_NUM_THREADS="$SRUN_CPUS_PER_TASK"
export TOKENIZERS_PARALLELISM=false
cd {folder} || exit 1
run=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {list})
if [ -z "$run" ]; then
    echo "there is no run $SLURM_ARRAY_TASK_ID in" {list} >&2
    exit 2
fi
log={logs}/"$run".log
ended={slurm}/"$run".ended
rm -f -- "$ended"

# scancel reaches this shell, too: then the task is not put back in line.
trap 'exit 143' TERM

for command in {commands}; do
    echo "\\$ kikimimi $command" {out}/"$run" >> "$log"
    srun --kill-on-bad-exit=1 {python} -m {command_line} "$command" {out}/"$run" >> "$log" 2>&1
    code=$?
    if [ "$code" -ne 0 ]; then
        break
    fi
done

# 143: a signal stopped it, and what was done is saved. The task goes on from there when it is its turn again.
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
else
    echo "$code $SECONDS" > "$ended"
fi
exit "$code"
"""
_MERGE = """\
#!/bin/bash
# The report of the sweep {sweep}. Written by: kikimimi sweep ... --engine slurm --dry-run
{options}

cd {folder} || exit 1
{python} -m {command_line} sweep {of} --report
"""


@dataclass(frozen=True)
class _Needs:
    """What runs of one array need alike."""

    nodes: int
    devices: int
    gpu: bool
    cpus: int

    @classmethod
    def of(cls, run: SweepRun) -> _Needs:
        trainer = RunFolder.read_recipe(run.path).trainer
        return cls(trainer.nodes, trainer.devices, trainer.accelerator != "cpu", trainer.workers + 1)


def write_array(folder: SweepFolder, runs: Sequence[SweepRun], options: Sequence[str] = ()) -> list[Path]:
    """Write files for sbatch that train and evaluate runs, one array task each, and then write the report.

    What to submit is said on the standard error.

    Args:
        folder: The sweep's folder; folders of the runs hold their recipes.
        runs: Runs that are not finished.
        options: Options for sbatch, ``--partition=gpu`` or ``-p gpu`` each.

    Returns:
        The arrays' files, and that of the step that merges them.

    Raises:
        RequestError: An option is none, or follows from the recipes.
        WriteError: The system refuses.
    """
    given = {_option_name(option): option for option in options}
    needed: dict[_Needs, list[SweepRun]] = {}
    for run in runs:
        needed.setdefault(_Needs.of(run), []).append(run)
    if not needed:
        say("every run is trained: there is nothing to submit", error=True)
        return []
    place = folder.path.absolute() / "slurm"
    logs = folder.path.absolute() / "logs"
    with writing(logs / "slurm.log"):  # Slurm makes no folders
        logs.mkdir(parents=True, exist_ok=True)
    arrays = [
        _write_one(folder, place, needs, part, given)
        for needs, alike in needed.items()
        for part in _parts(alike)
    ]
    merge = place / "merge.sbatch"
    shared = {name: option for name, option in given.items() if name in _ALSO_MERGE}
    lines = {"job-name": f"{folder.sweep.name}-report", "ntasks": "1", "output": _pattern(logs, "report-%j")}
    _write_script(merge, _MERGE, folder, shared, lines, of=shlex.quote(str(folder.path.absolute())))
    say(
        f"{counted(len(runs), 'run')} in {counted(len(arrays), 'array')}. To submit them, and the report:",
        error=True,
    )
    for line in _submission(arrays, merge):
        say(f"  {line}", error=True)
    return [*arrays, merge]


def note_ended(folder: SweepFolder) -> None:
    """Take note of how tasks of arrays have ended, with the causes of those that failed.

    Args:
        folder: The sweep's folder.

    Raises:
        DamagedError: What a task has left is not what tasks write.
    """
    for run in folder.runs:
        path = folder.path / "slurm" / f"{run.name}.ended"
        if not path.is_file():
            continue
        if (found := re.fullmatch(r"(\d+) (\d+)\s*", read_text(path, limit=100))) is None:
            raise damaged(path, "is not an exit code and a number of seconds", "Delete it")
        code, seconds = int(found[1]), float(found[2])
        if code:
            cause = failure_cause(folder.log(run), code)
            folder.add_event(run, "failed", code=code, seconds=seconds, cause=cause)
        else:
            folder.add_event(run, "finished", code=code, seconds=seconds)
        with writing(path):
            path.unlink()


def _write_one(
    folder: SweepFolder, place: Path, needs: _Needs, runs: Sequence[SweepRun], given: dict[str, str]
) -> Path:
    names = "".join(f"{run.name}\n" for run in runs)
    digest = hashlib.sha256(f"{names}{needs}{given}".encode()).hexdigest()[:8]
    path = place / f"array-{digest}.sbatch"
    listed = path.with_suffix(".runs")
    with whole_file(listed) as unfinished:
        unfinished.write_text(names, encoding="utf-8")
    logs = folder.path.absolute() / "logs"
    lines = {
        "job-name": folder.sweep.name,
        "array": f"1-{len(runs)}",
        "nodes": str(needs.nodes),
        "ntasks-per-node": str(needs.devices),
        **({"gpus-per-node": str(needs.devices)} if needs.gpu else {}),
        "cpus-per-task": str(needs.cpus),
        "signal": f"USR1@{GRACE}",
        "requeue": "",
        "open-mode": "append",
        "output": _pattern(logs, "slurm-%A_%a"),
    }
    _write_script(
        path,
        _ARRAY,
        folder,
        given,
        lines,
        list=shlex.quote(str(listed)),
        logs=shlex.quote(str(logs)),
        slurm=shlex.quote(str(place)),
        out=shlex.quote(str(folder.out.absolute())),
        commands=" ".join(COMMANDS),
    )
    return path


def _parts(runs: list[SweepRun]) -> Iterator[list[SweepRun]]:
    for first in range(0, len(runs), LARGEST_ARRAY):
        yield runs[first : first + LARGEST_ARRAY]


def _write_script(
    path: Path,
    template: str,
    folder: SweepFolder,
    given: dict[str, str],
    lines: dict[str, str],
    **beside: str,
) -> None:
    ours = [
        f"--{name}={shlex.quote(value)}" if value else f"--{name}"
        for name, value in lines.items()
        if name not in given
    ]
    text = template.format(
        sweep=folder.sweep.name,
        options="\n".join(f"#SBATCH {option}" for option in (*given.values(), *ours)),
        folder=shlex.quote(str(Path.cwd())),
        python=shlex.quote(sys.executable),
        command_line=COMMAND_LINE,
        **beside,
    )
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def _pattern(folder: Path, name: str) -> str:
    """Return the pattern of a log's name, in which a % of the folder's own name means nothing."""
    return f"{folder}/".replace("%", "%%") + f"{name}.log"


def _option_name(option: str) -> str:
    """Return the long name of an option for sbatch.

    Raises:
        RequestError: It is none, or follows from the recipes.
    """
    found = re.fullmatch(r"--([a-z][a-z-]*)(?:[= ].+)?|-([A-Za-z])(?: ?.+)?", option)
    if found is None:
        raise RequestError(
            f"--sbatch {option!r}: expected an option for sbatch, such as --sbatch --time=04:00:00 "
            "--sbatch --partition=gpu"
        )
    name = found[1] or _SHORT.get(found[2], found[2])
    if name in _OURS:
        raise RequestError(
            f"--sbatch {option!r}: {listing(f'--{one}' for one in _OURS)} follow from the sweep and from "
            "trainer.devices and trainer.nodes of the recipe"
        )
    return name


def _submission(arrays: Iterable[Path], merge: Path) -> tuple[str, str]:
    """Return the two commands that submit everything."""
    numbers = [f"$(sbatch --parsable {shlex.quote(str(path))} | cut -d ';' -f 1)" for path in arrays]
    return (
        f"jobs={':'.join(numbers)}",
        f'sbatch --dependency="afterany:$jobs" {shlex.quote(str(merge))}',
    )
