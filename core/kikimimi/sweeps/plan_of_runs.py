"""A sweep as it is asked for: a recipe, what is varied of it, and the settings that come of that."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

from typing_extensions import TypedDict

from kikimimi.console.terminal import json_text, shortened
from kikimimi.console.words import counted, listing, nearest
from kikimimi.errors import RequestError
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.sweeps.factor import (
    SEED_OPTION,
    DrawnRange,
    Factor,
    Level,
    distinct_levels,
    read_change,
    short_names,
    written_value,
)

Levels = Mapping[str, Level]
"""A level of each factor, by the factor's name; the seed's is among them where it is one."""


Search = Literal["grid", "random", "tpe"]
"""How combinations are chosen."""


@final
class HeldFactor(TypedDict):
    """A factor as JSON holds it: what each level changes, by its label."""

    name: str
    levels: dict[str, list[str]]


@final
class HeldRange(TypedDict):
    """A range as JSON holds it, see `DrawnRange`."""

    name: str
    low: int | float
    high: int | float
    log: bool
    whole: bool


class HeldSweep(TypedDict):
    """A sweep as JSON holds it, see `Sweep`."""

    name: str
    recipe: str
    changes: list[str]
    factors: list[HeldFactor | HeldRange]
    exclude: list[dict[str, Any]]
    search: Search
    runs: int | None
    hours: float | None
    compare: list[str]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is swept.

    Attributes:
        name: What its folder is called.
        recipe: The recipe's file.
        changes: What every run changes of it.
        factors: What is varied; the seed is last.
        exclude: Levels by factor: combinations that have all levels of one of these are left out.
        search: How combinations are chosen: ``grid`` takes all.
        runs: Settings that a search tries.
        hours: Time after which no run is started [h].
        compare: Evaluations that settings are compared by; empty means all.
    """

    name: str
    recipe: Path
    changes: tuple[str, ...] = ()
    factors: tuple[Factor | DrawnRange, ...] = ()
    exclude: tuple[Mapping[str, Any], ...] = ()
    search: Search = "grid"
    runs: int | None = None
    hours: float | None = None
    compare: tuple[str, ...] = ()

    def changed(self, changes: Sequence[str]) -> Sweep:
        """Return it with factors and changes in addition; of a name that it has, the new one holds.

        Its own levels can be called by their labels: ``adapter=mlp,conv`` takes these two variants of a file.

        Raises:
            RequestError: A change is wrong.
        """
        read = [self._with_own_levels(read_change(text)) for text in changes]
        new = {one.name: one for one in read if not isinstance(one, str)}
        values = {text.partition("=")[0]: text for text in read if isinstance(text, str)}
        if both := next((name for name in new if name in values), None):
            raise RequestError(f"{both}: it is given as a factor and as one value")
        before = {text.partition("=")[0]: text for text in self.changes}
        fixed = {name: text for name, text in (before | values).items() if name not in new}
        factors = {one.name: one for one in self.factors if one.name not in fixed} | new
        if SEED_OPTION in factors:
            factors[SEED_OPTION] = factors.pop(SEED_OPTION)  # the last: runs of a setting stand together
        found = replace(self, changes=tuple(fixed.values()), factors=tuple(factors.values()))
        return replace(found, exclude=tuple(self._still_excluded({**fixed, **new})))

    def _with_own_levels(self, given: Factor | DrawnRange | str) -> Factor | DrawnRange | str:
        """Return a factor, or one value, with the sweep's own levels where it writes their labels.

        Raises:
            RequestError: It is the factor's name alone, no option's, and there is no such level.
        """
        name = given.partition("=")[0] if isinstance(given, str) else given.name
        own = next((one for one in self.factors if one.name == name), None)
        if not isinstance(own, Factor) or isinstance(given, DrawnRange):
            return given
        levels = (Level("", (given,)),) if isinstance(given, str) else given.levels
        is_option = name.partition(".")[0] in (one.name for one in fields(Recipe))
        find = own.level if is_option else partial(own.required_level, where=name)
        found = [find(level.changes[0].partition("=")[2]) or level for level in levels]
        if isinstance(given, str) and found[0].changes == (given,):
            return given
        return distinct_levels(Factor(name, tuple(found)))

    def _still_excluded(self, given: Mapping[str, Factor | DrawnRange | str]) -> Iterator[Mapping[str, Any]]:
        """Yield what is excluded where factors have other levels, or one value, from now on.

        What names no level is yielded as it is: it is told later.
        """
        before = {one.name: one for one in self.factors if isinstance(one, Factor)}
        for excluded in self.exclude:
            still: dict[str, Any] = {}
            for name, wanted in excluded.items():
                now = given.get(name)
                old = [
                    before[name].level(label) if name in before else None
                    for label in (wanted if isinstance(wanted, list) else [wanted])
                ]
                levels = [level for level in old if level is not None]
                if now is None or isinstance(now, DrawnRange) or len(levels) < len(old):
                    still[name] = wanted
                elif isinstance(now, Factor):
                    still[name] = [one.label for one in now.levels if any(map(one.is_same, levels))]
                    if not still[name]:
                        break
                elif not any(level.is_same(Level("", (now,))) for level in levels):
                    break
            else:
                if not still and excluded:
                    raise RequestError("exclude: it leaves out every combination")
                yield still

    def complete(self) -> Sweep:
        """Return it with a name, checked.

        Raises:
            RequestError: Nothing is varied, or options do not go together.
        """
        self._check()
        return self if self.name else replace(self, name=self._made_name())

    def _check(self) -> None:
        if not self.factors:
            raise RequestError(
                "nothing is varied: give a factor, such as adapter=mlp,qformer or seed=0,1,2, or a file of a "
                "sweep"
            )
        ranges = [one.name for one in self.factors if isinstance(one, DrawnRange)]
        if SEED_OPTION in ranges:
            raise RequestError("seed: a search draws none: every setting has the same seeds, seed=0,1,2")
        if ranges and self.search == "grid":
            raise RequestError(
                f"{ranges[0]} is a range, from which a search draws: add --search random or --search tpe"
            )
        if self.search == "grid" and self.runs is not None:
            raise RequestError(
                f"a budget of {counted(self.runs, 'setting')} is that of a search, and a grid trains all of "
                "its settings: add --search random or --search tpe, or leave the budget out"
            )
        if self.search != "grid" and self.runs is None:
            raise RequestError(f"--search {self.search} needs a budget: how many settings it tries (--runs)")
        self._check_name()
        self._check_seed()
        self._check_excluded()

    def _check_name(self) -> None:
        if self.name and (not self.name.isprintable() or self.name in (".", "..") or "/" in self.name):
            raise RequestError(
                f"{shortened(self.name, 80)!r} cannot be the name of a sweep: it is that of one folder, "
                "without '/' and control characters, and not '.' or '..'"
            )

    def _check_seed(self) -> None:
        factors = [one for one in self.factors if isinstance(one, Factor)]
        if SEED_OPTION not in (one.name for one in factors):
            return
        for name, level in ((one.name, level) for one in factors for level in one.levels):
            options = {change.partition("=")[0] for change in level.changes}
            if (SEED_OPTION in options) if name != SEED_OPTION else (options != {SEED_OPTION}):
                raise RequestError(
                    f"{name}, {level.label}: what repeats a setting is told by seed=0,1,2 on the line, or by "
                    "'seeds' of a file, and changes the seed alone; nothing else does"
                )

    def _check_excluded(self) -> None:
        names = [one.name for one in self.factors]
        for number, excluded in enumerate(self.exclude):
            if not excluded:
                raise RequestError(f"exclude[{number}]: it names no factor, and would leave out everything")
            for name, wanted in excluded.items():
                factor = next((one for one in self.factors if one.name == name), None)
                if not isinstance(factor, Factor):
                    raise RequestError(
                        f"exclude[{number}]: there is no factor '{name}'.{nearest(name, names)} "
                        f"Factors: {listing(names)}"
                    )
                for label in wanted if isinstance(wanted, list) else [wanted]:
                    factor.required_level(label, f"exclude[{number}].{name}")
        if self.exclude and next(self.grid(), None) is None:
            raise RequestError("exclude: it leaves out every combination")

    def _made_name(self) -> str:
        """Return a name for a sweep that has none: its recipe's, its factors', and a hash of what it is."""
        factors = ",".join(short_names(one.name for one in self.factors).values())
        held: dict[str, Any] = {**self.to_json()}
        # With another budget it is the same sweep, which goes on.
        same = {name: held[name] for name in ("recipe", "changes", "factors", "exclude", "search")}
        digest = hashlib.sha256(json_text(same).encode()).hexdigest()
        return f"{self.recipe.stem}--{factors[:60]}-{digest[:8]}"

    def to_json(self) -> HeldSweep:
        """Return it as JSON holds it."""
        factors: list[HeldFactor | HeldRange] = [
            {"name": one.name, "levels": {level.label: list(level.changes) for level in one.levels}}
            if isinstance(one, Factor)
            else {"name": one.name, "low": one.low, "high": one.high, "log": one.log, "whole": one.whole}
            for one in self.factors
        ]
        return {
            "name": self.name,
            "recipe": str(self.recipe),
            "changes": list(self.changes),
            "factors": factors,
            "exclude": [dict(one) for one in self.exclude],
            "search": self.search,
            "runs": self.runs,
            "hours": self.hours,
            "compare": list(self.compare),
        }

    @classmethod
    def from_json(cls, held: HeldSweep) -> Sweep:
        """Return the sweep that `to_json` wrote."""
        factors: list[Factor | DrawnRange] = []
        for one in held["factors"]:
            if "levels" in one:
                levels = [Level(label, tuple(changes)) for label, changes in one["levels"].items()]
                factors.append(Factor(one["name"], tuple(levels)))
            else:
                factors.append(DrawnRange(**one))
        return cls(
            name=held["name"],
            recipe=Path(held["recipe"]),
            changes=tuple(held["changes"]),
            factors=tuple(factors),
            exclude=tuple(held["exclude"]),
            search=held["search"],
            runs=held["runs"],
            hours=held["hours"],
            compare=tuple(held["compare"]),
        )

    @property
    def size(self) -> int:
        """How many combinations the levels of its factors have, those that are excluded left out."""
        return sum(1 for _ in self.grid())

    def grid(self) -> Iterator[Levels]:
        """Yield every combination that is not excluded; the last factor varies first."""
        factors = [one for one in self.factors if isinstance(one, Factor)]
        for levels in itertools.product(*(one.levels for one in factors)):
            combination = {one.name: level for one, level in zip(factors, levels, strict=True)}
            if not self.excludes(combination):
                yield combination

    def excludes(self, combination: Levels) -> bool:
        """Whether a combination is left out."""
        return any(
            all(_is_one_of(combination[name], wanted) for name, wanted in one.items()) for one in self.exclude
        )

    def changes_of(self, combination: Levels) -> list[str]:
        """Return what a combination changes of the recipe, that which all runs change first."""
        return [*self.changes, *(change for level in combination.values() for change in level.changes)]

    def recipe_of(self, combination: Levels) -> Recipe:
        """Return the resolved recipe of a combination.

        Raises:
            RecipeError: It is wrong.
        """
        return load_recipe(self.recipe, self.changes_of(combination))


def _is_one_of(level: Level, wanted: Any) -> bool:
    labels = wanted if isinstance(wanted, list) else [wanted]
    return any(level.label in (label, written_value(label)) for label in labels)
