"""A sweep before its first run: every combination resolved and checked, and what they will take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kikimimi.console.progress import Progress
from kikimimi.console.words import counted, listing, nearest
from kikimimi.data.shards.pattern import expand, patterns_of
from kikimimi.errors import KikimimiError
from kikimimi.planning.plan import Planner, StageForecast
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.sweeps.check import CheckedRun, Checker
from kikimimi.sweeps.factor import SEED_OPTION, DrawnRange
from kikimimi.sweeps.plan_of_runs import Levels, Sweep
from kikimimi.sweeps.source import Listed, RunSource
from kikimimi.sweeps.sweep_folder import RunLine, SweepFolder, begin_run, is_finished

_MOST_SHOWN = 20


@dataclass(frozen=True)
class PlannedRun:
    """A run that is to be trained.

    Attributes:
        line: The run.
        forecasts: What its stages will take; empty where that was not asked for, or cannot be told.
        why: Why it cannot be told.
    """

    line: RunLine
    forecasts: tuple[StageForecast, ...] = ()
    why: str = ""


@dataclass
class Prepared:
    """A sweep whose combinations are checked.

    Attributes:
        sweep: The sweep.
        planned: Its runs; of a search none, as they come while it runs.
        invalid: Combinations that are wrong, as tables call them, with what is wrong.
        shards: Patterns of all data.
        devices: Most processes that a run trains with.
        nodes: Most machines that a run trains on.
        on_gpus: Whether some run takes GPUs where there are some.
    """

    sweep: Sweep
    planned: list[PlannedRun] = field(default_factory=list)
    invalid: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shards: dict[str, None] = field(default_factory=dict)
    devices: int = 1
    nodes: int = 1
    on_gpus: bool = False

    def told(self, then: str = "mend what is wrong, or leave it out by --skip-invalid") -> str:
        """Return which combinations are wrong, what is to be done or is done, and why."""
        reasons: dict[tuple[str, ...], list[str]] = {}
        for setting, problems in self.invalid.items():
            reasons.setdefault(problems, []).append(setting)
        lines = [f"{counted(len(self.invalid), 'setting')} cannot be trained: {then}"]
        for problems, settings in reasons.items():
            more = f" and {len(settings) - _MOST_SHOWN} more" if len(settings) > _MOST_SHOWN else ""
            lines.append(f"  {'; '.join(settings[:_MOST_SHOWN])}{more}:")
            lines += [f"    {problem}" for problem in problems]
        return "\n".join(lines)

    def require_data(self) -> None:
        """Check that there is data to train on and to evaluate with.

        Raises:
            RequestError: A pattern names no shard.
        """
        with patterns_of(self.sweep.recipe):
            for pattern in self.shards:
                expand(pattern)

    def write(self, folder: SweepFolder) -> None:
        """Write down the runs, and make their folders with their recipes: the file may be edited meanwhile.

        Raises:
            RunError: A folder holds a run of another recipe.
        """
        if self.sweep.search != "grid":
            return
        base = load_recipe(self.sweep.recipe, self.sweep.changes)
        lines = []
        for planned in self.planned:
            recipe = partial(load_recipe, self.sweep.recipe, planned.line["changes"])
            lines.append(begin_run(folder.out, planned.line, base, recipe))
        folder.write_runs(lines)

    def source(self, folder: SweepFolder, *, retry: bool) -> RunSource:
        """Return what gives the runs that are still to be trained.

        Args:
            folder: The sweep's folder, in which runs are written down.
            retry: Only those that have failed.
        """
        if self.sweep.search != "grid":
            from kikimimi.sweeps.search import Searcher

            return Searcher(folder, retry=retry)
        states = folder.states()
        wanted = {run.name: run for run in folder.runs}
        left = []
        for run in wanted.values():
            state = states[run.name].state
            if is_finished(run.path):
                if state != "finished":
                    folder.add_event(run, "finished")  # by another sweep, or it was killed before it was said
            elif not retry or state == "failed":
                left.append(run)
        return Listed(left)

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        return {
            "sweep": self.sweep.to_json(),
            "runs": [
                {**one.line, "stages": [stage.to_json() for stage in one.forecasts]} for one in self.planned
            ],
            "invalid": {setting: list(problems) for setting, problems in self.invalid.items()},
        }


def prepare(sweep: Sweep, *, plans: bool = False) -> Prepared:
    """Resolve and check every combination of a sweep; of ranges, their ends.

    Args:
        sweep: The sweep.
        plans: Whether to tell what each run will take.

    Raises:
        RequestError: There is no such recipe, or an evaluation that is compared is missing.
    """
    load_recipe(sweep.recipe, sweep.changes)  # what is wrong with all of them is said once
    checker, prepared = Checker(sweep), Prepared(sweep)
    planner = Planner() if plans and sweep.search == "grid" else None
    combinations = sweep.grid() if sweep.search == "grid" else _ends(sweep)
    with Progress("Checking", sweep.size * (1 if sweep.search == "grid" else 2), "combinations") as bar:
        for checked in checker.check_all(combinations):
            _take(prepared, checked, planner)
            bar.advance()
    return prepared


def _take(prepared: Prepared, checked: CheckedRun, planner: Planner | None) -> None:
    recipe, problems = checked.recipe, checked.problems
    if recipe and (missing := [name for name in prepared.sweep.compare if name not in recipe.evaluate]):
        near = nearest(missing[0], recipe.evaluate)
        problems = (
            f"compare: it has no evaluation '{missing[0]}'.{near} Evaluations: {listing(recipe.evaluate)}",
        )
    if recipe is None or problems:
        setting = _setting(checked.line["levels"])
        prepared.invalid[setting] = tuple(dict.fromkeys((*prepared.invalid.get(setting, ()), *problems)))
        return
    prepared.shards.update(dict.fromkeys(_shards(recipe)))
    prepared.devices = max(prepared.devices, recipe.trainer.devices)
    prepared.nodes = max(prepared.nodes, recipe.trainer.nodes)
    prepared.on_gpus |= recipe.trainer.accelerator != "cpu"
    if prepared.sweep.search != "grid":
        return
    forecasts: tuple[StageForecast, ...] = ()
    why = ""
    if planner is not None:
        try:
            forecasts = tuple(planner.plan(recipe, name) for name in recipe.stages)
        except KikimimiError as error:
            why = str(error).partition("\n")[0]
    prepared.planned.append(PlannedRun(checked.line, forecasts, why))


def _setting(levels: Mapping[str, str]) -> str:
    """Return what a setting is called; of runs that differ by their seeds alone, with the seed."""
    settings = {name: label for name, label in levels.items() if name != SEED_OPTION} or levels
    return ", ".join(f"{name}={label}" for name, label in settings.items())


def _shards(recipe: Recipe) -> Iterator[str]:
    for stage in recipe.stages.values():
        validated = stage.validate.data.values() if stage.validate else ()
        yield from (str(dataset.shards) for dataset in (*stage.data.values(), *validated))
    yield from (str(evaluation.shards) for evaluation in recipe.evaluate.values())


def _ends(sweep: Sweep) -> Iterator[Levels]:
    """Yield combinations with all ranges at their lower ends, and with all at their upper ends."""
    ranges = [one for one in sweep.factors if isinstance(one, DrawnRange)]
    for levels in sweep.grid():
        for end in ("low", "high"):
            yield {**levels, **{one.name: one.level(getattr(one, end)) for one in ranges}}
