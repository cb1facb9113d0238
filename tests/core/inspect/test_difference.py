"""What differs between recipes and runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kikimimi.evaluation.evaluate import evaluate
from kikimimi.inspect.difference import WHERE, Differing, find_difference
from kikimimi.recipe import load_recipe, to_yaml
from kikimimi.run.folder import RunFolder
from kikimimi.testing import tiny_recipe, write_shard
from kikimimi.training.train import train

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("difference")
    run = RunFolder.create(
        folder / "run", tiny_recipe(load_recipe(QUICKSTART), write_shard(folder / "data", 6))
    )
    train(run)
    evaluate(run)
    return run


def test_what_is_written_otherwise_and_means_the_same_is_the_same(tmp_path: Path) -> None:
    recipe = load_recipe(QUICKSTART)
    (tmp_path / "again.yaml").write_text(to_yaml(recipe))
    again = load_recipe(tmp_path / "again.yaml", ["name=other"])
    assert find_difference(recipe, again).empty
    elsewhere = find_difference(recipe, load_recipe(QUICKSTART, ["trainer.workers=2"]))
    assert elsewhere.empty
    assert elsewhere.items == {WHERE: [Differing("trainer.workers", 0, 2)]}


def test_options_and_the_parameters_that_follow_from_them(trained: RunFolder) -> None:
    adapter = trained.recipe.adapter
    wider = replace(adapter, config=replace(adapter.config, hidden_dim=2 * adapter.config.hidden_dim))
    found = find_difference(trained.recipe, replace(trained.recipe, adapter=wider))
    assert list(found.items) == ["parts"]
    items = {item.item: (item.one, item.other) for item in found.items["parts"]}
    assert items.keys() == {"adapter.hidden_dim", "adapter parameters", "adapter trainable"}
    one, other = items["adapter parameters"]
    assert one < other
    assert items["adapter trainable"] == (one, other)
    assert not found.empty


def test_shapes_that_follow_from_options() -> None:
    found = find_difference(
        load_recipe(QUICKSTART), load_recipe(QUICKSTART, ["adapter.downsample=8", "llm.scratch.dim=128"])
    )
    items = {item.item: (item.one, item.other) for item in found.items["parts"]}
    assert items["adapter tokens of 10 s"] == (125, 63)
    assert items["llm width"] == (256, 128)
    assert "encoder width" not in items


def test_runs_have_data_versions_and_scores(trained: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(Path(shutil.copytree(trained.path, tmp_path / "copy")), trained.recipe)
    same = find_difference(trained, other)
    assert same.empty
    (pair,) = same.scores
    assert pair.comparison is not None
    assert (pair.comparison.difference, pair.comparison.differ, pair.comparison.count) == (0, 0, 6)

    lock = json.loads((other.path / "lock.json").read_text())
    lock["libraries"]["torch"] = "1.0"
    lock["data"] = dict.fromkeys(lock["data"], "0" * 64)
    (other.path / "lock.json").write_text(json.dumps(lock))
    path = other.evaluation("held_out") / "quickstart.jsonl"
    head, *lines = path.read_text().splitlines()
    right = [json.loads(line) for line in lines]
    said = [json.dumps({**line, "prediction": line["reference"]}) for line in right]
    path.write_text("\n".join([head, *said]) + "\n")
    found = find_difference(trained, other)
    assert {item.item for item in found.items["versions"]} == {"torch"}
    assert {item.other for item in found.items["data"]} == {"0" * 12}
    (pair,) = found.scores
    assert pair.comparison is not None
    assert pair.comparison.differ == 6
    path.unlink()
    (pair,) = find_difference(trained, other).scores
    assert pair.comparison is None
    assert "predictions are gone" in pair.why


def test_shards_that_lie_elsewhere_and_are_the_same(trained: RunFolder, tmp_path: Path) -> None:
    path = Path(shutil.copytree(trained.path, tmp_path / "moved"))
    evaluation = trained.recipe.evaluate["held_out"]
    moved = replace(trained.recipe, evaluate={"held_out": replace(evaluation, shards="elsewhere/*.tar")})
    found = find_difference(trained, RunFolder(path, moved))
    assert found.empty
