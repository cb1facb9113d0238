"""Every shipped sweep: all its combinations resolve, and each kind of parts, made small, is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from kikimimi.contracts import registry
from kikimimi.recipe.resolve import recipes_folder
from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.check import Checker
from kikimimi.sweeps.factor import SEED_OPTION, Factor, Level
from kikimimi.sweeps.plan_of_runs import Sweep
from kikimimi.sweeps.sweep_file import read_sweep
from kikimimi.testing import tiny_recipe, write_shard
from kikimimi.training.train import train

SWEEPS = sorted((recipes_folder() / "sweeps").glob("*.yaml"))


def varied(sweep: Sweep) -> Factor:
    """Return the factor beside the seed."""
    (factor,) = (one for one in sweep.factors if one.name != SEED_OPTION)
    assert isinstance(factor, Factor)
    return factor


SETTINGS = [
    pytest.param(path, {factor.name: level}, id=f"{path.stem}-{level.label}")
    for path in SWEEPS
    for factor in [varied(read_sweep(path))]
    for level in factor.levels
]


def test_there_are_sweeps() -> None:
    assert {"adapters", "layers"} <= {path.stem for path in SWEEPS}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_combination_fits(path: Path) -> None:
    sweep = read_sweep(path)
    assert path.read_text(encoding="utf-8").startswith("# ")
    checked = list(Checker(sweep).check_all(sweep.grid()))
    assert [one.problems for one in checked] == [()] * sweep.size
    assert len({one.line["digest"] for one in checked}) == sweep.size
    for one in checked:
        assert one.recipe is not None
        assert set(sweep.compare) == set(one.recipe.evaluate)
        assert one.recipe.evaluate["held_out"].baselines == {}  # the same in every run


def test_all_adapters_are_compared() -> None:
    (path,) = (path for path in SWEEPS if path.stem == "adapters")
    ours = {plugin.name for plugin in registry.plugins("adapter") if plugin.distribution == "kikimimi"}
    assert {level.label for level in varied(read_sweep(path)).levels} == ours


@pytest.mark.parametrize(("path", "setting"), SETTINGS)
def test_it_takes_two_steps(path: Path, setting: dict[str, Level], tmp_path: Path) -> None:
    recipe = tiny_recipe(read_sweep(path).recipe_of(setting), write_shard(tmp_path / "clips", 4))
    run = RunFolder.create(tmp_path / "run", recipe)
    train(run)
    assert run.newest_weights() == ("asr", run.weights("asr"))
