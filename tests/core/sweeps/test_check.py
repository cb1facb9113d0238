from __future__ import annotations

import io
import re
import resource
from pathlib import Path

import pytest
from rich.console import Console

from kikimimi.errors import RequestError
from kikimimi.run.folder import RunFolder
from kikimimi.sweeps.check import Checker, run_digest
from kikimimi.sweeps.dry_run import dry_run_page
from kikimimi.sweeps.factor import short_names
from kikimimi.sweeps.plan_of_runs import Sweep
from kikimimi.sweeps.prepare import prepare
from kikimimi.sweeps.sweep_folder import SweepFolder


def swept(recipe: Path, *changes: str) -> Sweep:
    return Sweep(name="", recipe=recipe).changed(changes).complete()


def test_a_run_is_named_by_what_differs_and_a_hash(recipe: Path) -> None:
    sweep = swept(recipe, "adapter=mlp,conv", "stages.asr.train.llm.lr=1e-3,2e-3", "seed=3,4")
    lines = [one.line for one in Checker(sweep).check_all(sweep.grid())]
    assert len({line["digest"] for line in lines}) == len({line["name"] for line in lines}) == 8
    first = lines[0]
    assert first["name"] == f"small--adapter=mlp,lr=0.001,seed=3-{first['digest']}"


def test_factors_are_called_by_the_end_of_their_names_that_tells_them_apart(
    recipe: Path, tmp_path: Path
) -> None:
    names = ["stages.align.train.adapter.lr", "stages.asr.train.adapter.lr", "llm.lora.lr", "a.steps", "seed"]
    assert list(short_names(names).values()) == [
        "align.train.adapter.lr",
        "asr.train.adapter.lr",
        "lora.lr",
        "steps",
        "seed",
    ]
    assert short_names(["lr", "adapter.lr"]) == {"lr": "lr", "adapter.lr": "adapter.lr"}
    sweep = swept(recipe, "stages.asr.train.adapter.lr=1e-3,2e-3", "stages.asr.train.llm.lr=1e-3,2e-3")
    prepared = prepare(sweep)
    folder = SweepFolder.create(tmp_path / "runs", sweep)
    prepared.write(folder)
    assert folder.runs[1].setting == "adapter.lr=0.001, llm.lr=0.002"
    assert folder.runs[1].name.startswith("small--adapter.lr=0.001,llm.lr=0.002-")
    assert "--adapter.lr,llm.lr-" in sweep.name


def test_the_hash_is_of_the_resolved_recipe_without_where_it_runs(recipe: Path) -> None:
    one = swept(recipe, "adapter=mlp,conv")
    other = swept(recipe, "adapter={name: mlp},ctc", "trainer.workers=1")
    digests = [run_digest(sweep.recipe_of(next(sweep.grid()))) for sweep in (one, other)]
    assert digests[0] == digests[1]
    steps = swept(recipe, "adapter=mlp,conv", "stages.asr.steps=3")
    assert run_digest(steps.recipe_of(next(steps.grid()))) != digests[0]


def test_what_is_wrong_is_listed_with_its_reasons_and_the_rest_is_not(recipe: Path) -> None:
    sweep = swept(recipe, "adapter=mlp,qfrmer,tltr", "seed=0,1")
    prepared = prepare(sweep)
    assert [one.line["levels"]["adapter"] for one in prepared.planned] == ["mlp", "mlp"]
    assert set(prepared.invalid) == {"adapter=qfrmer", "adapter=tltr"}
    said = prepared.told()
    assert "2 settings cannot be trained" in said
    assert "Did you mean 'qformer'?" in said
    assert "looks along the layers of the encoder" in said


def test_a_wrong_seed_is_named_and_each_has_its_reason(recipe: Path) -> None:
    prepared = prepare(swept(recipe, "seed=0,-1,-2"))
    assert [one.line["levels"] for one in prepared.planned] == [{"seed": "0"}]
    assert set(prepared.invalid) == {"seed=-1", "seed=-2"}
    problems = prepare(swept(recipe, "adapter=mlp,conv", "stages.asr.steps=2", "seed=-1,-2")).invalid[
        "adapter=mlp"
    ]
    assert [problem.partition(" (")[0] for problem in problems] == [
        "seed: must be at least 0, not -1",
        "seed: must be at least 0, not -2",
    ]


def test_what_is_wrong_with_all_is_said_once(recipe: Path) -> None:
    with pytest.raises(RequestError, match="there is no stage 'aser'"):
        prepare(swept(recipe, "adapter=mlp,conv", "stages.aser.steps=1"))
    sweep = Sweep(name="", recipe=recipe, compare=("held",)).changed(["seed=0,1"]).complete()
    assert "compare: it has no evaluation 'held'. Did you mean 'held_out'?" in prepare(sweep).told()


def test_data_that_is_missing_is_told_before_the_first_run(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("train-000000", "gone"))
    prepared = prepare(swept(recipe, "seed=0,1"))
    with pytest.raises(RequestError, match="gone"):
        prepared.require_data()
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(dry_run_page(prepared, recipe.parent))
    assert re.search(r"None can start yet: \S*gone\.tar", console.export_text())


def test_memory_does_not_grow_with_combinations(recipe: Path) -> None:
    sweep = swept(recipe, f"seed={','.join(map(str, range(30)))}", "adapter.hidden_dim=8,16,24,32,40")
    checked = Checker(sweep).check_all(sweep.grid())
    for _ in range(100):
        next(checked)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in checked) == 50
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_a_run_that_has_not_begun_takes_where_it_trains(recipe: Path, tmp_path: Path) -> None:
    def workers(number: int) -> list[int]:
        sweep = swept(recipe, "adapter=mlp,conv", f"trainer.workers={number}")
        folder = SweepFolder.create(tmp_path / "runs", sweep)
        prepare(sweep).write(folder)
        return [RunFolder.read_recipe(run.path).trainer.workers for run in folder.runs]

    assert workers(1) == [1, 1]
    assert workers(2) == [2, 2]
    begun = next((tmp_path / "runs").glob("*=mlp-*"))
    (begun / "metrics.jsonl").touch()
    assert workers(3) == [2, 3]
