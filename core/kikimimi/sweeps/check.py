"""Resolves every combination of a sweep, and checks that its parts fit, before the first run starts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from kikimimi.contracts.options import OptionsError
from kikimimi.errors import RecipeError, RequestError, WeightsError
from kikimimi.model.trainable import check_sources, trainable_names
from kikimimi.planning.plan import Planner
from kikimimi.recipe import Recipe
from kikimimi.recipe.show import dump_plain, plain
from kikimimi.run.drift import HARDWARE
from kikimimi.run.folder import run_name
from kikimimi.sweeps.factor import short_names
from kikimimi.sweeps.plan_of_runs import Levels, Sweep
from kikimimi.sweeps.sweep_folder import RunLine

_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class CheckedRun:
    """A combination that was resolved and checked.

    Attributes:
        line: The run that it is.
        recipe: Its resolved recipe; None where it is wrong.
        problems: What is wrong with it; empty where nothing is.
    """

    line: RunLine
    recipe: Recipe | None
    problems: tuple[str, ...] = ()


@dataclass
class Checker:
    """Checks combinations one after the other; keeps the shapes of the newest models alone.

    Attributes:
        sweep: The sweep.
        planner: What assembles models without weights.
    """

    sweep: Sweep
    planner: Planner = field(default_factory=lambda: Planner(reads_data=False))

    def check(self, combination: Levels) -> CheckedRun:
        """Resolve a combination, and check it."""
        levels = {name: level.label for name, level in combination.items()}
        changes = self.sweep.changes_of(combination)
        line = partial(RunLine, levels=levels, changes=changes)
        try:
            recipe = self.sweep.recipe_of(combination)
            self._check_parts(recipe)
        except RecipeError as error:
            return CheckedRun(line=line(name="", digest=""), recipe=None, problems=error.problems)
        except (RequestError, OptionsError) as error:
            return CheckedRun(line=line(name="", digest=""), recipe=None, problems=(str(error),))
        digest = run_digest(recipe)
        return CheckedRun(line=line(name=self._name(recipe, levels, digest), digest=digest), recipe=recipe)

    def check_all(self, combinations: Iterable[Levels]) -> Iterator[CheckedRun]:
        """Yield each combination, checked."""
        return map(self.check, combinations)

    def _check_parts(self, recipe: Recipe) -> None:
        """Check that parts fit each other, and that every parameter has a source or is trained."""
        for name, stage in recipe.stages.items():
            try:
                model, _ = self.planner.model(recipe.at(name))
            except WeightsError:
                return  # its shapes are not known here: training tells
            check_sources(model, recipe)
            trainable_names(model, stage, where=f"stages.{name}")

    def _name(self, recipe: Recipe, levels: dict[str, str], digest: str) -> str:
        """Return the name of a run: the recipe's, what differs, and the hash."""
        short = short_names(levels)
        differs = [f"{short[name]}={label}" for name, label in levels.items()]
        return f"{run_name(recipe.name, differs)}-{digest}"


def run_digest(recipe: Recipe) -> str:
    """Return what the name of a run ends with: a hash of all that decides what is trained and evaluated.

    Where and how fast it trains is left out: `HARDWARE`.
    """
    held = plain(recipe)
    held["trainer"] = {name: value for name, value in held["trainer"].items() if name not in HARDWARE}
    return hashlib.sha256(dump_plain(held).encode()).hexdigest()[:_DIGITS]
