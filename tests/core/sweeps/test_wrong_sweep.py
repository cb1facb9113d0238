"""What people get wrong with sweeps: names, budgets, what is left out, and folders that were moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kikimimi.errors import DamagedError, RequestError, RunError
from kikimimi.sweeps.plan_of_runs import Sweep
from kikimimi.sweeps.sweep_file import read_sweep
from kikimimi.sweeps.sweep_folder import SweepFolder

ADAPTERS = "recipe: small.yaml\nfactors: {adapter: [mlp, conv]}\n"


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/b", "..", ".", "a\nb", "\x1b[31m"])
def test_a_name_is_that_of_one_folder(name: str) -> None:
    sweep = Sweep(name=name, recipe=Path("small.yaml")).changed(["seed=0,1"])
    with pytest.raises(RequestError, match="cannot be the name of a sweep"):
        sweep.complete()


@pytest.mark.parametrize("name", ["x", "日本 語", "...", "a'b\"c", "-x"])
def test_any_other_name_is_one(name: str) -> None:
    assert Sweep(name=name, recipe=Path("small.yaml")).changed(["seed=0,1"]).complete().name == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exclude: [{}]", "exclude[0]: it names no factor"),
        ("exclude: [{adapter: [mlp, conv]}]", "exclude: it leaves out every combination"),
        ("exclude: [{adapter: mlp}, {adapter: conv}]", "exclude: it leaves out every combination"),
        ("budget: {runs: 3}", "a budget of 3 settings is that of a search"),
        ("changes: {adapter: mlp}", "changes.adapter: it is given as a factor and as one value"),
    ],
)
def test_files_of_which_nothing_or_something_else_would_come(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(ADAPTERS + text, encoding="utf-8")
    with pytest.raises(RequestError) as found:
        read_sweep(path).complete()
    assert str(found.value).startswith(said)


def test_the_command_line_still_fixes_a_factor_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "fine.yaml"
    path.write_text(ADAPTERS + "seeds: [0, 1]", encoding="utf-8")
    sweep = read_sweep(path, ["adapter=conv"]).complete()
    assert [factor.name for factor in sweep.factors] == ["seed"]
    assert sweep.changes == ("adapter=conv",)


def test_a_folder_is_found_from_inside_and_by_its_new_name(
    make_sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_sweep(a=[])
    for folder, path in ((made.path, "."), (made.path.parent, made.path.name), (made.out, made.path)):
        monkeypatch.chdir(folder)
        found = SweepFolder.open(Path(path))
        assert found.sweep.name == "small sweep"
        assert found.out.resolve() == made.out.resolve()
        assert found.runs[0].path.resolve() == (made.out / "a").resolve()
    renamed = made.path.rename(made.path.with_name("renamed"))
    found = SweepFolder.open(renamed)
    assert SweepFolder.place(found.out, found.sweep) == renamed


def test_a_folder_that_was_taken_away_from_its_runs(make_sweep: Any, tmp_path: Path) -> None:
    away = make_sweep(a=[]).path.rename(tmp_path / "away")
    with pytest.raises(RunError, match="taken away from its run folders"):
        SweepFolder.open(away)


@pytest.mark.parametrize(
    "change",
    [
        {"changes": [5]},
        {"exclude": [3]},
        {"runs": "x"},
        {"hours": "x"},
        {"compare": "x"},
        {"search": "no"},
        {"recipe": 5},
        {"factors": {}},
        {"factors": [1]},
        {"factors": [{"name": "seed", "levels": []}]},
        {"factors": [{"name": "seed", "low": 1}]},
    ],
    ids=json.dumps,
)
def test_a_damaged_plan_is_told(make_sweep: Any, change: dict[str, Any]) -> None:
    path = make_sweep(a=[]).path / "sweep.json"
    held = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(held | change), encoding="utf-8")
    with pytest.raises(DamagedError, match=rf"sweep\.json: .*{next(iter(change))}"):
        SweepFolder.open(path.parent)


def test_a_run_is_a_folder_beside_the_others(make_sweep: Any) -> None:
    folder = make_sweep(a=[])
    path = folder.path / "runs.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"a"', '"../a"', 1), encoding="utf-8")
    with pytest.raises(DamagedError, match=r"runs\.jsonl: '\.\./a' is not the name of a run folder"):
        SweepFolder.open(folder.path)


@pytest.mark.parametrize(
    ("source", "said"),
    [("sweeps/gone", "Sweeps that are shipped: adapters, layers"), ("adaptors", "Did you mean 'adapters'")],
)
def test_what_is_not_there_is_said_first(tmp_path: Path, source: str, said: str) -> None:
    from kikimimi.cli.sweep import _asked

    with pytest.raises(RequestError, match=rf"there is no recipe {source}\..*{said}"):
        _asked(Path(source), [], tmp_path)


def test_a_plan_that_is_led_is_not_replaced(recipe_file: Path, tmp_path: Path) -> None:
    sweep = Sweep(name="one", recipe=recipe_file).changed(["seed=0,1"]).complete()
    folder = SweepFolder.create(tmp_path, sweep)
    with folder.held(), pytest.raises(RunError, match="is led by another process"):
        SweepFolder.create(tmp_path, sweep.changed(["adapter=mlp,conv"]))
    assert SweepFolder.open(folder.path).sweep == sweep


def test_a_folder_of_which_there_is_only_the_lock_is_begun(recipe_file: Path, tmp_path: Path) -> None:
    sweep = Sweep(name="one", recipe=recipe_file).changed(["seed=0,1"]).complete()
    SweepFolder.create(tmp_path, sweep)
    (tmp_path / "sweeps" / "one" / "sweep.json").unlink()  # it was killed between the two
    assert SweepFolder.create(tmp_path, sweep).sweep == sweep
