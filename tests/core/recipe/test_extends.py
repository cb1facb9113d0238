from __future__ import annotations

from typing import Any

import pytest

from kikimimi.errors import RecipeError
from kikimimi.recipe import Train, load_recipe


def test_a_child_merges_over_its_parents(write: Any, base: str) -> None:
    write(base, "deep/base.yaml")
    write("extends: base.yaml\nname: middle\nadapter: {hidden_dim: 64}\nseed: 1\n", "deep/middle.yaml")
    child = write(
        "extends: deep/middle.yaml\nname: child\nadapter: {dropout: 0.5}\nstages: {tune: {steps: 7}}\n"
    )
    recipe = load_recipe(child)
    config = recipe.adapter.config
    assert (recipe.name, recipe.seed) == ("child", 1)
    assert (config.downsample, config.hidden_dim, config.dropout) == (8, 64, 0.5)
    assert list(recipe.stages) == ["align", "tune"]
    assert recipe.stages["tune"].steps == 7
    assert recipe.stages["tune"].train["llm"] == Train(lr=1e-5, part="lora")


@pytest.mark.parametrize("section", ["adapter: query", "adapter: {name: query}"])
def test_another_component_replaces_the_whole_section(write: Any, base: str, section: str) -> None:
    write(base, "base.yaml")
    recipe = load_recipe(write(f"extends: base.yaml\n{section}\n"))
    assert recipe.adapter.config == recipe.adapter.component.Config()  # downsample is not carried over


def test_replacing_reaches_tasks_and_baselines_and_lora(write: Any, base: str) -> None:
    write(base, "base.yaml")
    text = (
        "extends: base.yaml\nstages: {tune: {data: {clips: {task: talk}}}}\nevaluate: {held_out: "
        "{task: {name: talk, turns: 2}}}\n"
    )
    recipe = load_recipe(write(text))
    assert recipe.stages["tune"].data["clips"].task.name == "talk"
    assert recipe.stages["tune"].data["clips"].weight == 6
    assert recipe.evaluate["held_out"].task.config.turns == 2


def test_the_same_component_is_merged(write: Any, base: str) -> None:
    write(base, "base.yaml")
    recipe = load_recipe(write("extends: base.yaml\nadapter: {name: plain, bias: false}\nllm: talker\n"))
    assert (recipe.adapter.config.downsample, recipe.adapter.config.bias) == (8, False)
    assert recipe.llm.lora is not None


def test_null_removes_named_entries(write: Any, base: str) -> None:
    write(base, "base.yaml")
    recipe = load_recipe(
        write(
            "extends: base.yaml\nstages: {align: null, tune: {data: {talk: null}, train: {llm: null}}}\n"
            "evaluate: {held_out: {baselines: {rival: null}}}\n"
        )
    )
    assert list(recipe.stages) == ["tune"]
    assert list(recipe.stages["tune"].data) == ["clips"]
    assert list(recipe.stages["tune"].train) == ["adapter"]
    assert recipe.evaluate["held_out"].baselines == {}
    assert load_recipe(write("extends: base.yaml\nevaluate: {held_out: null}\n")).evaluate == {}


def test_leftovers_are_told_with_the_file_that_has_them(write: Any, base: str) -> None:
    write(base, "base.yaml")
    child = write(
        "extends: base.yaml\nadapter: query\n\nstages:\n  alihn: null\n  tune: {data: {talk: {wieght: 1}}}\n"
    )
    with pytest.raises(RecipeError) as raised:
        load_recipe(child, ["adapter.hidden_dim=3", "encoder.pda=none"])
    assert list(raised.value.problems) == [
        "stages.alihn: there is no stage 'alihn' to remove by null. Did you mean 'align'? Stages: "
        "align, tune (x.yaml:5)",
        "encoder.pda: encoder 'ear' has no option 'pda'. Did you mean 'pad'? Options: layers, pad, "
        "size, weights "
        "(command line: encoder.pda=none)",
        "adapter.hidden_dim: adapter 'query' has no option 'hidden_dim'. Options: downsample, num_queries "
        "(command line: adapter.hidden_dim=3)",
        "stages.tune.data.talk.wieght: dataset 'talk' has no option 'wieght'. Did you mean 'weight'? "
        "Options: max_characters, shards, task, weight (x.yaml:6)",
    ]


def test_a_problem_in_a_parent_names_the_parent(write: Any, base: str) -> None:
    write(base.replace("downsample: 8", "downsample: x"), "deep/base.yaml")
    child = write("extends: ../deep/base.yaml\n", "other/x.yaml")
    with pytest.raises(RecipeError) as raised:
        load_recipe(child)
    assert list(raised.value.problems) == [
        "adapter.downsample: expected a whole number, not 'x' (deep/base.yaml:5)"
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("extends: [a.yaml]", "extends: expected the name of a file, not a list (x.yaml:1)"),
        ("extends: bsae.yaml", "extends: there is no recipe bsae.yaml. Did you mean 'base.yaml'? (x.yaml:1)"),
        ("extends: x.yaml", "extends: leads back to itself: x.yaml -> x.yaml (x.yaml:1)"),
        ("extends: loop.yaml", "extends: leads back to itself: x.yaml -> loop.yaml -> x.yaml (loop.yaml:2)"),
    ],
)
def test_what_cannot_be_extended(write: Any, base: str, line: str, problem: str) -> None:
    write(base, "base.yaml")
    write("name: loop\nextends: ./x.yaml\n", "loop.yaml")
    with pytest.raises(RecipeError) as raised:
        load_recipe(write(f"{line}\n"))
    assert list(raised.value.problems) == [problem]
