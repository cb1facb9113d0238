from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from kikimimi.errors import RunError
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.run.drift import recipe_change
from kikimimi.run.folder import RunFolder, run_name
from kikimimi.run.made_with import MadeWith

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(ROOT / "recipes" / "quickstart.yaml", ["encoder.weights=random"])


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "q"),
        (["name=q"], "q"),
        (["adapter.downsample=8"], "q--adapter.downsample=8"),
        (["seed=1", "adapter=mlp"], "q--adapter=mlp,seed=1"),
        (["+stages.b.steps=1", "stages.asr.train.adapter.lr=1.0e-3"], None),
    ],
)
def test_a_name_says_what_was_changed(overrides: list[str], name: str | None) -> None:
    assert run_name("q", overrides) == (name or "q--+stages.b.steps=1,stages.asr.train.adapter.lr=1.0e-3")


def test_names_never_collide() -> None:
    variations = [
        ["a=x/y"],
        ["a=x_y"],
        ["a=x:y"],
        ["a=[1,2]"],
        ["a=[1, 2]"],
        ["a=1,b=2"],
        ["a=1", "b=2"],
        ["a=1", "a=2"],
        ["a=2", "a=1"],
        ["a=日"],
        ["a=月"],
        ["a=" + "x" * 100],
        ["a=" + "x" * 101],
    ]
    names = [run_name("q", overrides) for overrides in variations]
    for (one, first), (other, second) in itertools.combinations(zip(variations, names, strict=True), 2):
        assert first != second, (one, other)


@given(st.lists(st.text(min_size=1, max_size=60), max_size=4))
def test_a_name_is_one_folder(overrides: list[str]) -> None:
    name = run_name("q", overrides)
    assert Path(name).name == name
    assert len(name.encode()) < 255
    assert name.isascii()
    assert run_name("q", overrides) == name


def test_the_order_of_changes_to_different_options_does_not_matter() -> None:
    assert run_name("q", ["b=1", "a=2"]) == run_name("q", ["a=2", "b=1"])


def test_create_then_open(tmp_path: Path, recipe: Recipe) -> None:
    created = RunFolder.create(tmp_path / "a" / "run", recipe)
    assert RunFolder.open(created.path).recipe == recipe
    assert RunFolder.create(created.path, recipe).recipe == recipe
    assert [path.name for path in created.path.iterdir()] == ["recipe.yaml"]


def test_the_lock_is_read_once(tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(tmp_path / "run", recipe)
    read: list[Path] = []
    made_with = MadeWith.read

    def counted(lock: Path) -> MadeWith:
        read.append(lock)
        return made_with(lock)

    monkeypatch.setattr(MadeWith, "read", counted)
    RunFolder.open(run.path, ["trainer.workers=1"])
    assert read == [run.path / "lock.json"]


def test_a_run_that_never_began_takes_the_mended_recipe(tmp_path: Path, recipe: Recipe) -> None:
    run = RunFolder.create(tmp_path / "run", recipe)
    (run.assets / "llm").mkdir(parents=True)
    (run.assets / "llm" / "tokenizer.json").write_text("{}")
    assert RunFolder.create(run.path, recipe).assets.is_dir()
    mended = replace(recipe, seed=7)
    assert RunFolder.create(run.path, mended).recipe == mended
    assert RunFolder.open(run.path).recipe == mended
    assert not run.assets.exists()  # made of what the old recipe named


@pytest.mark.parametrize(
    "begun", ["metrics.jsonl", "checkpoints/asr/step-00000001/x", "weights/asr.safetensors"]
)
def test_a_run_that_began_keeps_its_recipe(tmp_path: Path, recipe: Recipe, begun: str) -> None:
    run = RunFolder.create(tmp_path / "run", recipe)
    (run.path / begun).parent.mkdir(parents=True, exist_ok=True)
    (run.path / begun).touch()
    message = r"holds a run of another recipe \(seed: there 0, here 7\)\. Choose another --out"
    with pytest.raises(RunError, match=message):
        RunFolder.create(run.path, replace(recipe, seed=7))
    assert RunFolder.open(run.path).recipe == recipe


def test_the_order_of_stages_is_part_of_a_recipe(recipe: Recipe) -> None:
    stage = recipe.stages["asr"]
    before, after = (replace(recipe, stages=dict.fromkeys(names, stage)) for names in ("ab", "ba"))
    assert recipe_change(before, before) == ""
    assert recipe_change(before, after) == "the same options in another order, or with an empty section more"


def test_what_is_no_run_folder(tmp_path: Path, recipe: Recipe) -> None:
    RunFolder.create(tmp_path / "quick", recipe)
    with pytest.raises(RunError, match=r"quik: no such run folder\. Did you mean 'quick'\? Run folders in "):
        RunFolder.open(tmp_path / "quik")
    with pytest.raises(RunError, match=r"none/run: no such run folder\.$"):
        RunFolder.open(tmp_path / "none" / "run")
    (tmp_path / "file").touch()
    with pytest.raises(
        RunError, match=r"is a file\. A run folder is what 'kikimimi train RECIPE.yaml' makes"
    ):
        RunFolder.open(tmp_path / "file")
    with pytest.raises(RunError, match="exists and is not a run folder"):
        RunFolder.create(tmp_path / "file", recipe)
    with pytest.raises(RunError, match="exists and is not a run folder"):
        RunFolder.create(tmp_path, recipe)


def test_newest_weights(tmp_path: Path, recipe: Recipe) -> None:
    stage = recipe.stages["asr"]
    run = RunFolder.create(tmp_path / "run", replace(recipe, stages={"one": stage, "two": stage}))

    def put(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    with pytest.raises(RunError, match=r"nothing was trained yet\. Go on with: kikimimi train "):
        run.newest_weights()
    put(run.checkpoints("one") / "step-00000900" / "weights.safetensors")
    latest = put(run.checkpoints("one") / "step-00001000" / "weights.safetensors")
    assert run.newest_weights() == ("one", latest)
    finished = put(run.weights("one"))
    assert run.newest_weights() == ("one", finished)
    with pytest.raises(RunError, match=r"stage 'two' was not trained yet"):
        run.newest_weights("two")
    second = put(run.checkpoints("two") / "step-00000001" / "weights.safetensors")
    assert run.newest_weights() == run.newest_weights("two") == ("two", second)
    assert run.newest_weights() != ("two", put(run.weights("two")))
    assert run.newest_weights() == ("two", run.weights("two"))
    assert run.newest_weights("one") == ("one", finished)
    with pytest.raises(RunError, match=r"no stage is called 'tow'\. Did you mean 'two'\? Stages: one, two"):
        run.newest_weights("tow")


def test_json(tmp_path: Path, recipe: Recipe) -> None:
    run = RunFolder.create(tmp_path / "run", recipe)
    assert run.read_json("a/b.json") is None
    run.write_json("a/b.json", {"文": 1.5})
    assert run.read_json("a/b.json") == {"文": 1.5}
    assert [path.name for path in (run.path / "a").iterdir()] == ["b.json"]
