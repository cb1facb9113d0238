"""``kikimimi check``."""

from pathlib import Path

import typer

from kikimimi.console.terminal import say


def verify(run: Path = typer.Argument(..., metavar="RUN", help="A run folder.")) -> None:
    """Verify a run folder: recipe, lock, checkpoints, weights, evaluations, metrics.

    Each file is read to its end, and held against the hash that was written with it. What is damaged is
    listed with what to do about it; the exit code is 1 then.
    """
    from kikimimi.console.words import counted
    from kikimimi.run.folder import RunFolder

    RunFolder.require(run)  # before what takes seconds to import
    from kikimimi.inspect.run_check import check_run

    items = check_run(run)
    for item in items:
        say(str(item))
    damaged = sum(bool(item.problem) for item in items)
    say(f"{run}: {counted(len(items), 'item')} checked, {damaged or 'none'} damaged")
    if damaged:
        raise typer.Exit(1)
