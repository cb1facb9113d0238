from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from kikimimi.recipe import LoRA, Train, to_yaml


def test_options_are_set(load: Any, base: str) -> None:
    overrides = [
        "seed=3",
        "adapter.dropout=1e-3",
        "stages.tune.data.clips.weight=3",
        "stages.tune.batch={seconds: 5}",
    ]
    recipe = load(
        base, *overrides, "trainer.loggers=[tensorboard]", "stages.align.data.clips.shards=a-{0..3}.tar"
    )
    assert recipe.seed == 3
    assert (recipe.adapter.config.downsample, recipe.adapter.config.dropout) == (8, 1e-3)
    assert recipe.stages["tune"].data["clips"].weight == 3.0
    assert (recipe.stages["tune"].batch.seconds, recipe.stages["tune"].batch.global_) == (5.0, 1)
    assert recipe.trainer.loggers == ["tensorboard"]
    assert recipe.stages["align"].data["clips"].shards == "a-{0..3}.tar"


def test_a_section_is_merged_and_the_last_override_counts(load: Any, base: str) -> None:
    recipe = load(base, "stages.align.batch={seconds: 5}", "seed=1", "seed=2")
    assert (recipe.stages["align"].batch.seconds, recipe.stages["align"].batch.global_, recipe.seed) == (
        5.0,
        4,
        2,
    )


def test_a_swap_replaces_the_section_and_comes_first(load: Any, base: str) -> None:
    for overrides in permutations(["adapter.num_queries=3", "adapter=query", "seed=1"]):
        config = load(base, *overrides).adapter.config
        assert (config.num_queries, config.downsample) == (3, 1)


def test_a_swap_to_the_same_component_resets_its_options(load: Any, base: str) -> None:
    assert load(base, "adapter=plain").adapter.config.downsample == 4
    config = load(base, "adapter={name: plain, bias: false}").adapter.config
    assert (config.downsample, config.bias) == (4, False)


def test_swaps_reach_tasks_and_short_forms_have_options(load: Any, base: str) -> None:
    recipe = load(base, "stages.tune.data.clips.task=talk", "stages.align.data.clips.task.language=ja")
    assert recipe.stages["tune"].data["clips"].task.config.turns == 1
    assert recipe.stages["align"].data["clips"].task.config.language == "ja"


def test_a_metric_is_a_name_or_a_section(load: Any, base: str) -> None:
    recipe = load(base, "evaluate.held_out.metric=wer")
    assert recipe == load(base, "evaluate.held_out.metric={name: wer}")
    assert recipe.evaluate["held_out"].metric.name == "wer"
    assert load(to_yaml(recipe)) == recipe


def test_named_entries_are_added_and_removed(load: Any, base: str) -> None:
    recipe = load(
        base,
        "stages.tune.data.more={shards: more.tar, task: talk}",
        "stages.tune.data.more.weight=2",
        "stages.align=null",
        "evaluate.held_out.baselines.rival=null",
        "stages.tune.train.encoder.lr=1e-6",
    )
    assert list(recipe.stages) == ["tune"]
    assert {name: data.weight for name, data in recipe.stages["tune"].data.items()} == {
        "clips": 6,
        "talk": 1,
        "more": 2,
    }
    assert recipe.evaluate["held_out"].baselines == {}
    assert recipe.stages["tune"].train["encoder"] == Train(lr=1e-6)


def test_an_optional_section_that_is_off_can_be_switched_on(load: Any, base: str) -> None:
    shown = to_yaml(load(base))
    assert load(shown, "adapter.extra.kind=rms").adapter.config.extra.kind == "rms"
    assert load(shown, "encoder.lora.rank=2").encoder.lora == LoRA(rank=2)


def test_names_may_hold_dots(load: Any, base: str) -> None:
    assert load(base.replace("  align:", "  v1.0:"), "stages.v1.0.steps=5").stages["v1.0"].steps == 5


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("adapter", "adapter: expected key=value, such as adapter.downsample=8"),
        ("=3", "recipe: expected key=value, such as adapter.downsample=8"),
        ("adapter..bias=1", "adapter..bias: expected key=value, such as adapter.downsample=8"),
        ("seed=", "seed: nothing follows the '='; write null to remove it, or '\"\"' for an empty text"),
        ("extends=a.yaml", "extends: can only stand in a file"),
        (
            "seed=[1",
            "seed: not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
        ),
        (
            "seed=!!python/name:os.system",
            "seed: the tag !!python/name:os.system is not allowed here: a recipe holds "
            "texts, numbers, true, false, null, lists and sections",
        ),
        (
            "adapter.name=query",
            "adapter.name: write adapter=query: another adapter has other options, so that the whole "
            "section is replaced",
        ),
        (
            "stages.tune.data.clips.task.name=talk",
            "stages.tune.data.clips.task.name: write stages.tune.data.clips.task=talk: another task has "
            "other options, "
            "so that the whole section is replaced",
        ),
        ("seed.x=3", "seed: '0' (x.yaml:26) has no options inside"),
        (
            "stages.aling.steps=3",
            "stages.aling: there is no stage 'aling'. Did you mean 'align'? Stages: align, tune. "
            "To add one, write stages.aling={...}",
        ),
        (
            "stages.tune.data.x=null",
            "stages.tune.data.x: there is no dataset 'x' to remove by null. Datasets: clips, talk",
        ),
    ],
)
def test_a_wrong_override(problems: Any, base: str, override: str, problem: str) -> None:
    assert problems(f"{base}seed: 0\n", override) == [f"{problem} (command line: {override})"]


def test_all_wrong_overrides_at_once(problems: Any, base: str) -> None:
    found = problems(base, "adapter.downsmaple=8", "nothing", "stages.algin=null", "adapter.name=query")
    assert [problem.partition(":")[0] for problem in found] == [
        "nothing",
        "stages.algin",
        "adapter.name",
        "adapter.downsmaple",
    ]
    assert found[-1].endswith(
        "Did you mean 'downsample'? Options: activation, bias, cache, downsample, dropout, extra, "
        "free, hidden_dim, layer, norm, norms, scales, shape, words (command line: adapter.downsmaple=8)"
    )
