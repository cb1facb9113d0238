"""What a sweep would do, as a table on a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kikimimi.console.words import counted, work_time
from kikimimi.errors import KikimimiError
from kikimimi.planning.plan import NOT_COUNTED
from kikimimi.sweeps.factor import short_names
from kikimimi.sweeps.prepare import PlannedRun, Prepared
from kikimimi.sweeps.sweep_folder import find_run, is_finished

_GB = 1e9
_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z")


def dry_run_page(prepared: Prepared, out: Path) -> RenderableType:
    """Return the runs, what each changes, and what it will take.

    Args:
        prepared: The sweep.
        out: Where run folders lie: those that are trained take nothing.
    """
    sweep = prepared.sweep
    head = Text.assemble((sweep.name, "bold"), f": {sweep.recipe}\n")
    for factor in sweep.factors:
        head.append(f"  {factor.name}: {factor.to_words()}\n")
    if sweep.changes:
        head.append(f"  in all runs: {' '.join(sweep.changes)}\n")
    if sweep.search != "grid":
        head.append(f"{sweep.search} search of {counted(sweep.runs or 0, 'setting')}: drawn while it runs")
        return Group(head, *_missing(prepared))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("run", overflow="fold")
    for title in ("trained", "memory", "operations", "1 x H100"):
        table.add_column(title, justify="right", no_wrap=True)
    runs = {planned.line["digest"]: planned for planned in prepared.planned}
    left = []
    for digest, planned in runs.items():
        done = is_finished(find_run(out, planned.line["name"], digest))
        left += [] if done else [planned]
        table.add_row(_changes(planned), *(["is trained", "", "", ""] if done else _figures(planned)))
    days = sum(day for planned in left for day in _days(planned))
    end = f"{counted(len(left), 'run')} to train"
    if days:
        end += f": {work_time(days)} on one H100 at 35 % of its peak rate"
    notes = [Text(note, style="dim") for note in (_why(left), NOT_COUNTED) if note]
    return Group(head, table, Text(), Text(end, style="bold"), *_missing(prepared), *notes)


def _missing(prepared: Prepared) -> list[Text]:
    """Return that no run can start, where data is missing."""
    try:
        prepared.require_data()
    except KikimimiError as error:
        return [Text(f"None can start yet: {error}", style="bold red")]
    return []


def _changes(planned: PlannedRun) -> str:
    levels = planned.line["levels"]
    short = short_names(levels)  # the head says their names
    return " ".join(f"{short[name]}={label}" for name, label in levels.items())


def _figures(planned: PlannedRun) -> list[str]:
    if not planned.forecasts:
        return ["", "", "", ""]
    stages = planned.forecasts
    trained = max(sum(count.trainable for count in stage.counts.values()) for stage in stages)
    memory = max(stage.memory.total for stage in stages)
    flops = sum(
        sum(stage.flops.values()) * stage.micro_batches * stage.steps for stage in stages if stage.steps
    )
    return [f"{trained:,}", f"{memory / _GB:.2f} GB", _operations(flops), work_time(sum(_days(planned)))]


def _operations(flops: float) -> str:
    unit = 0
    while flops >= 1000 and unit < len(_UNITS) - 1:
        flops, unit = flops / 1000, unit + 1
    return f"{flops:.3g} {_UNITS[unit]}FLOP"


def _days(planned: PlannedRun) -> list[float]:
    return [stage.days for stage in planned.forecasts if stage.days is not None]


def _why(planned: list[PlannedRun]) -> str:
    return next((f"What they take cannot be told: {one.why}" for one in planned if one.why), "")
