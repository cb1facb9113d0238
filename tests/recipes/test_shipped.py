"""Every shipped recipe, made small: it is trained, evaluated and transcribes, and some are reported."""

from __future__ import annotations

import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from kikimimi.costs import operations
from kikimimi.errors import RequestError
from kikimimi.evaluation.evaluate import evaluate
from kikimimi.inference.load import load_model
from kikimimi.inference.transcriber import Transcriber
from kikimimi.inspect.describe import describe
from kikimimi.recipe import load_recipe, to_yaml
from kikimimi.recipe.resolve import recipes_folder, shipped_recipe
from kikimimi.report.run_report import write_run_report
from kikimimi.run.folder import RunFolder
from kikimimi.testing import tiny_recipe, write_shard
from kikimimi.training.train import train

RECIPES = sorted(recipes_folder().glob("*.yaml"))
# What is asked in every one of their stages stands in each record.
EACH_RECORD_ASKS = ("desta2", "ltu-as")
# One stage; three, with align, ce and dpo; an adapter with a loss of its own: every kind of chart.
REPORTED = ("quickstart", "llm_jp_4_8b_ja", "alignformer")


def test_there_are_recipes() -> None:
    assert "quickstart" in [path.stem for path in RECIPES]
    assert [shipped_recipe(path.stem) for path in RECIPES] == RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_is_named_like_its_file_and_says_what_it_is_for(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert path.read_text(encoding="utf-8").startswith("# ")
    shown = tmp_path / "shown.yaml"
    shown.write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(shown) == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_is_shown_offline(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network is asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for item in describe(load_recipe(path)):
        assert (item.parameters or 0) > 0, item.problem
        assert item.kind == "llm" or item.problem is None
        assert not item.unfilled  # at full size, every parameter has a source or a stage that trains it


@pytest.fixture
def _estimated_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the passes that measure what parts cost: every part's are tested in tests/core/costs."""

    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise RuntimeError("not measured here, but told by the sizes of matrices")

    monkeypatch.setattr(operations, "_measured", {})
    monkeypatch.setattr(operations, "measure_pass", refuse)


@pytest.mark.usefixtures("_estimated_costs")
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_from_two_steps_to_a_report(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIKIMIMI_CACHE", str(tmp_path / "cache"))
    clips = write_shard(tmp_path / "clips", 6)
    talks = write_shard(tmp_path / "talks", 6, prefix="talk", form="conversations")
    recipe = tiny_recipe(load_recipe(path), clips, conversations=talks)
    run = RunFolder.create(tmp_path / "run", recipe)
    train(run)
    described = describe(recipe, run.assets)
    trained = {part for stage in recipe.stages.values() for part in stage.train}
    assert {item.kind for item in described if item.trainable} == trained
    scores = evaluate(run) if recipe.evaluate else {}
    assert {name: list(systems) for name, systems in scores.items()} == {
        name: [
            *(f"{recipe.name}@{stage}" for stage, given in recipe.stages.items() if name in given.scored),
            recipe.name,
        ]
        for name in recipe.evaluate
    }
    if path.stem in REPORTED:
        assert write_run_report(run).stat().st_size > 10_000
    if path.stem in EACH_RECORD_ASKS:
        with pytest.raises(RequestError, match="none of its tasks asks a fixed question of a clip"):
            Transcriber(run)
        return
    transcriber = Transcriber(run)
    transcriber.generation = replace(transcriber.generation, max_new_tokens=4)
    clip = np.random.default_rng(0).normal(0, 0.1, transcriber.sample_rate).astype(np.float32)
    assert len(transcriber.transcribe([clip, clip[:8000]])) == 2


def test_a_second_stage_begins_where_the_first_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIKIMIMI_CACHE", str(tmp_path / "cache"))
    recipe = tiny_recipe(load_recipe(shipped_recipe("quickstart")), write_shard(tmp_path / "clips", 6))
    stage = recipe.stages["asr"]
    both = replace(
        recipe, stages={"asr": stage, "more": replace(stage, train={"adapter": stage.train["adapter"]})}
    )
    run = RunFolder.create(tmp_path / "run", both)
    train(run)
    assert run.newest_weights() == ("more", run.weights("more"))
    first, second = (RunFolder(run.path, replace(both, stages=s)) for s in ({"asr": stage}, both.stages))
    before, after = load_model(first), load_model(second)
    same: dict[str, bool] = dict.fromkeys(("encoder", "adapter", "llm"), True)
    for name, parameter in before.named_parameters():
        same[name.split(".")[0]] &= bool((parameter == after.get_parameter(name)).all())
    assert same == {"encoder": True, "adapter": False, "llm": True}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_published_system_says_what_it_was_compared_with(path: Path) -> None:
    text = " ".join(path.read_text(encoding="utf-8").replace("#", " ").split())
    own = ("quickstart", "llm_jp_4_8b_ja_cpu", "voxtral-mini_conv", "qwen2-audio_qformer")
    assert (path.stem not in own) == bool(re.search(r" Compared \d{4}-\d\d-\d\d: \w", text))
