"""The YAML file of a sweep: what is too long for a line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import MinLen

from kikimimi.console.words import listing, nearest
from kikimimi.contracts.options import Options, PositiveFloat, PositiveInt
from kikimimi.errors import RequestError
from kikimimi.files.yaml_text import read_yaml
from kikimimi.recipe.resolve import read_options, recipes_folder
from kikimimi.recipe.source import guess
from kikimimi.sweeps.factor import (
    SEED_OPTION,
    DrawnRange,
    Factor,
    Level,
    distinct_levels,
    factor_of,
    range_of,
    written_value,
)
from kikimimi.sweeps.plan_of_runs import Search, Sweep


@dataclass(frozen=True, kw_only=True)
class Range(Options):
    """Numbers that a search draws an option from."""

    low: int | float
    """The smallest."""
    high: int | float
    """The largest; whole numbers are drawn where both ends are."""
    log: bool = False
    """Whether the logarithm is drawn evenly."""


@dataclass(frozen=True, kw_only=True)
class Budget(Options):
    """When a sweep ends, where that is before all of its runs are trained."""

    runs: PositiveInt | None = None
    """Settings that a search tries, each with all seeds."""
    hours: PositiveFloat | None = None
    """Time after which no further run is started [h]."""


@dataclass(frozen=True, kw_only=True)
class SweepFile(Options):
    """The options of a sweep's file."""

    recipe: Path
    """The recipe that is varied; a relative path goes from the file."""
    changes: dict[str, Any] = field(default_factory=dict)
    """What all runs change of it, by dotted names."""
    factors: dict[str, list[Any] | dict[str, Any]] = field(default_factory=dict)
    """Levels of options, by dotted names: a list of values, or values by what tables call them."""
    variants: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Factors that change several options at once: by name, level and dotted name."""
    ranges: dict[str, Range] = field(default_factory=dict, metadata={"noun": "range"})
    """Options that a search draws."""
    seeds: Annotated[list[int], MinLen(1)] | None = None
    """Seeds that every setting is trained with; without, the recipe's alone."""
    exclude: list[dict[str, Any]] = field(default_factory=list)
    """Combinations that are left out: those that have all of the levels of one of these."""
    search: Search = "grid"
    """`grid` trains every combination; `random` and `tpe` draw them, as many as the budget has."""
    budget: Budget = Budget()
    """When it ends."""
    compare: list[str] = field(default_factory=list)
    """Evaluations that settings are compared by, the first one first; none means all of the recipe."""


def find_sweep(source: Path) -> Path | None:
    """Return the file of a sweep: what is named if it is one, or the shipped one of that name; else None.

    Raises:
        DamagedError: It is a file that is no YAML.
        RequestError: There is no such file.
    """
    if source.is_file():
        held = read_yaml(source)
        return source if isinstance(held, dict) and "recipe" in held and "stages" not in held else None
    shipped = {path.stem: path for path in (recipes_folder() / "sweeps").glob("*.yaml")}
    if str(source) not in shipped:
        near = guess(source) or nearest(str(source), shipped)
        raise RequestError(f"there is no recipe {source}.{near} Sweeps that are shipped: {listing(shipped)}")
    return shipped[str(source)]


def read_sweep(path: Path, changes: Sequence[str] = ()) -> Sweep:
    """Read the file of a sweep.

    Args:
        path: The file.
        changes: What the command line adds to it or puts in its place, ``key=value`` and ``key=a,b``.

    Raises:
        RequestError: It is wrong; the message holds every problem found.
    """
    held = read_options(path, SweepFile, what="a sweep")
    found = Sweep(
        name=path.stem,
        recipe=Path(os.path.normpath(path.parent / held.recipe)),
        changes=tuple(f"{key}={written_value(value)}" for key, value in held.changes.items()),
        factors=tuple(_factors(held)),
        exclude=tuple(held.exclude),
        search=held.search,
        runs=held.budget.runs,
        hours=held.budget.hours,
        compare=tuple(held.compare),
    )
    if both := [one.name for one in found.factors if one.name in held.changes]:
        raise RequestError(f"changes.{both[0]}: it is given as a factor and as one value")
    return found.changed(changes)


def _factors(held: SweepFile) -> list[Factor | DrawnRange]:
    found: list[Factor | DrawnRange] = []
    for key, values in held.factors.items():
        if isinstance(values, Mapping):
            pairs = [(written_value(value), value) for value in values.values()]
            found.append(factor_of(key, pairs, labels=list(values)))
        else:
            found.append(factor_of(key, [(written_value(value), value) for value in values]))
    for name, levels in held.variants.items():
        made = [
            Level(label, tuple(f"{key}={written_value(value)}" for key, value in changes.items()))
            for label, changes in levels.items()
        ]
        found.append(distinct_levels(Factor(name, tuple(made))))
    for key, ends in held.ranges.items():
        found.append(range_of(key, ends.low, ends.high, log=ends.log))
    if held.seeds is not None:
        found.append(factor_of(SEED_OPTION, [(str(seed), seed) for seed in held.seeds]))
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f"{twice}: two of factors, variants, ranges and seeds have that name")
    return found
