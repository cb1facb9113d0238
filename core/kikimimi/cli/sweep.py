"""``kikimimi sweep``."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kikimimi.console.terminal import say, say_json

if TYPE_CHECKING:
    from kikimimi.sweeps.engine import RunEngine
    from kikimimi.sweeps.plan_of_runs import Sweep
    from kikimimi.sweeps.prepare import Prepared
    from kikimimi.sweeps.sweep_folder import SweepFolder


class SearchName(StrEnum):
    """How combinations are chosen."""

    grid = "grid"
    random = "random"
    tpe = "tpe"


class EngineName(StrEnum):
    """What trains the runs."""

    local = "local"
    ray = "ray"
    slurm = "slurm"


def sweep(
    source: Path = typer.Argument(
        ...,
        metavar="RECIPE_OR_SWEEP",
        help="A recipe, the file of a sweep (or a shipped one's name), or a sweep's folder to go on with.",
    ),
    changes: list[str] = typer.Argument(
        None,
        help="Factors with their levels, adapter=mlp,qformer seed=0,1,2; ranges for a search, "
        "KEY=1e-4..1e-2:log; changes to all runs, stages.asr.steps=1000.",
    ),
    search: SearchName | None = typer.Option(
        None, "--search", show_default="grid", help="How combinations are chosen: all, at random, by TPE."
    ),
    runs: int | None = typer.Option(
        None, "--runs", min=1, help="Budget of a search: settings that it tries, each with all seeds."
    ),
    hours: float | None = typer.Option(
        None, "--hours", min=0.0, help="Budget of time: after it, no further run is started."
    ),
    engine: EngineName = typer.Option(EngineName.local, "--engine", help="What trains the runs."),
    processes: int | None = typer.Option(
        None,
        "--processes",
        min=1,
        show_default="one per GPU, else 1",
        help="Runs that train at a time on this machine; they share its threads.",
    ),
    address: str | None = typer.Option(
        None, "--address", show_default="a cluster of its own", help="Ray: an existing cluster."
    ),
    cpus: float = typer.Option(1.0, "--cpus", min=0.0, help="Ray: CPUs of each process of a run."),
    gpus: float | None = typer.Option(
        None, "--gpus", min=0.0, show_default="1 where there are some", help="Ray: GPUs of each of them."
    ),
    sbatch: list[str] = typer.Option(
        [], "--sbatch", metavar="OPTION", help="Slurm: an option for sbatch, --partition=gpu; again for more."
    ),
    out: Path = typer.Option(Path("runs"), "--out", help="Where run folders go, and sweeps below it."),
    name: str | None = typer.Option(None, "--name", help="What the sweep's folder is called."),
    retry: bool = typer.Option(False, "--retry", help="Train only the runs that have failed."),
    skip_invalid: bool = typer.Option(
        False, "--skip-invalid", help="Leave out combinations that are wrong, in place of an error."
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Print the runs, what each changes and what it will take; train nothing."
    ),
    report: bool = typer.Option(
        False, "--report", help="Write the report of what is there; the sweep may be running."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object; with --dry-run."),
) -> None:
    """Train a recipe in many variations, and compare them: a grid, or a search. The same command goes on."""
    from kikimimi.errors import RequestError
    from kikimimi.sweeps.prepare import prepare
    from kikimimi.sweeps.slurm import note_ended
    from kikimimi.sweeps.sweep_folder import SweepFolder

    asked, out = _asked(source, changes or [], out)
    asked = replace(
        asked,
        name=name or asked.name,
        search=search.value if search else asked.search,
        runs=runs or asked.runs,
        hours=asked.hours if hours is None else hours,
    ).complete()
    if report:
        folder = SweepFolder.open(SweepFolder.place(out, asked))
        note_ended(folder)
        say(str(_write_report(folder)))
        return
    if engine is EngineName.slurm and not dry_run:
        raise RequestError(
            "kikimimi submits nothing to Slurm: --engine slurm --dry-run writes the files, and says with "
            "which commands they are submitted"
        )
    prepared = prepare(asked, plans=dry_run and engine is not EngineName.slurm)
    if prepared.invalid and not skip_invalid:
        raise RequestError(prepared.told())
    if prepared.invalid and asked.search == "grid" and not prepared.planned:
        raise RequestError(prepared.told("no other is left"))
    if prepared.invalid:
        say(prepared.told("left out"), error=True)
    if dry_run and engine is not EngineName.slurm:
        _say_plan(prepared, out, as_json=as_json)
        return
    if prepared.nodes > 1 and engine is not EngineName.slurm:
        raise RequestError(
            f"trainer.nodes: {prepared.nodes}: --engine {engine.value} trains a run on one machine: take "
            "--engine slurm --dry-run"
        )
    prepared.require_data()
    folder = SweepFolder.create(out, asked)
    with folder.held():
        prepared.write(folder)
        if engine is EngineName.slurm:
            _write_array(folder, sbatch, retry=retry)
            return
        _lead(folder, prepared, _engine(engine, prepared, processes, address, cpus, gpus), retry=retry)


def _asked(source: Path, changes: list[str], out: Path) -> tuple[Sweep, Path]:
    """Return what is asked for, and where run folders lie."""
    from kikimimi.sweeps.plan_of_runs import Sweep
    from kikimimi.sweeps.sweep_file import find_sweep, read_sweep
    from kikimimi.sweeps.sweep_folder import SweepFolder

    if source.is_dir():
        folder = SweepFolder.open(source)
        return folder.sweep.changed(changes), folder.out
    if (file := find_sweep(source)) is not None:
        return read_sweep(file, changes), out
    return Sweep(name="", recipe=source).changed(changes), out


def _say_plan(prepared: Prepared, out: Path, *, as_json: bool) -> None:
    from kikimimi.console.rich_console import SafeConsole
    from kikimimi.sweeps.dry_run import dry_run_page

    if as_json:
        say_json(prepared.to_json())
    else:
        SafeConsole().print(dry_run_page(prepared, out))


def _write_array(folder: SweepFolder, options: list[str], *, retry: bool) -> None:
    from kikimimi.sweeps.slurm import note_ended, write_array
    from kikimimi.sweeps.sweep_folder import is_finished

    note_ended(folder)
    states = folder.states()
    wanted = [run for run in folder.runs if not retry or states[run.name].state == "failed"]
    for line in write_array(folder, [run for run in wanted if not is_finished(run.path)], options):
        say(str(line))


def _engine(
    name: EngineName,
    prepared: Prepared,
    processes: int | None,
    address: str | None,
    cpus: float,
    gpus: float | None,
) -> RunEngine:
    if name is EngineName.ray:
        from kikimimi.sweeps.ray_engine import RayEngine

        return RayEngine(address=address, cpus=cpus, gpus=gpus)
    from kikimimi.sweeps.local import Local, visible_gpus

    found = visible_gpus() if prepared.on_gpus else []
    return Local(processes or max(1, len(found) // prepared.devices), found)


def _lead(folder: SweepFolder, prepared: Prepared, engine: RunEngine, *, retry: bool) -> None:
    from kikimimi.sweeps.sweep import Leader

    leader = Leader(folder, engine, prepared.source(folder, retry=retry), _write_report)
    try:
        leader.lead()
    finally:
        path = _write_report(folder)
    say(str(path))
    states = folder.states()
    failed = [name for name, state in states.items() if state.state == "failed"]
    waiting = [name for name, state in states.items() if state.state == "waiting"]
    if waiting:
        say(f"{len(waiting)} of {len(states)} runs wait: kikimimi sweep {folder.path}", error=True)
    if failed:
        say(
            f"{len(failed)} of {len(states)} runs failed; the report says why. To train them again: "
            f"kikimimi sweep {folder.path} --retry",
            error=True,
        )
        raise typer.Exit(1)


def _write_report(folder: SweepFolder) -> Path:
    from kikimimi.sweeps.sweep_report import write_sweep_report

    return write_sweep_report(folder)
