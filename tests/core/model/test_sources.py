"""Every parameter has its values from a source or from a stage that trains it, or is declared fixed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from kikimimi.errors import RecipeError
from kikimimi.model.assembly import assemble
from kikimimi.model.trainable import check_sources, freeze_all_but, kept_names, trainable_names
from kikimimi.recipe import Recipe, load_recipe

SIZES = "sizes: {dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64}"
WHISPER = f"name: whisper, weights: random, {SIZES}"
SUM = f"{WHISPER}, layers: [0, 1, 2], combine: weighted_sum"
PART = f"{{{WHISPER}}}"
NO_ADAPTER = ["stages.asr.train.adapter=null", "stages.sft.train={adapter: null, llm: {}}"]
RECIPE = """
name: small
encoder:
  name: whisper
  weights: random
  sizes: {dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64}
  fixed: ["*"]
adapter: {name: mlp, hidden_dim: 16}
llm: {name: llama, scratch: {dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64, tokenizer: bytes}}
stages:
  asr: {train: {adapter: {}, llm: {}}, data: {x: {shards: x.tar, task: asr}}, steps: 1}
  sft: {train: {adapter: {}}, data: {x: {shards: x.tar, task: asr}}, steps: 1}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def check(path: Path, *overrides: str) -> Recipe:
    recipe = load_recipe(path, overrides)
    check_sources(assemble(recipe), recipe)
    return recipe


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [f"encoder={{{WHISPER}, fixed: ['*']}}"],
        [f"encoder={{{WHISPER}}}", "stages.sft.train.encoder.lr=1e-3"],
        # What is part of the encoder trains with the adapter.
        [f"encoder={{{SUM}, fixed: ['model.*']}}"],
        ["llm.fixed=['*']", "stages.asr.train.llm=null"],
        ["llm.lora.rank=2", "llm.fixed=['*']", "stages.asr.train.llm.part=lora"],
        ["llm.fixed=['*embed_tokens*']"],
    ],
)
def test_what_is_filled_trained_or_fixed(path: Path, overrides: list[str]) -> None:
    check(path, *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [f"encoder={{{WHISPER}}}"],
            r"^encoder: no source fills model\.conv1\.weight, model\.conv1\.bias, \S+ and \d+ more, and no "
            r"stage trains them: they would stay as they were drawn at random\. Train them "
            r"\(stages\.NAME\.train\.encoder\), name weights that fill them \(encoder\.weights\), or say "
            r"that they stay so \(encoder\.fixed: \['\*'\]\)$",
        ),
        (
            [f"encoder={{{SUM}, fixed: ['model.*']}}", *NO_ADAPTER, "adapter.fixed=['*']"],
            r"^encoder: no source fills taps\.weight, .*encoder\.fixed: \['taps\.weight'\]",
        ),
        (
            ["stages.asr.train.adapter=null", "stages.sft.train={adapter: null, llm: {}}"],
            r"^adapter: no source",
        ),
        (["stages.asr.train.llm=null"], r"^llm: no source fills model\.model\.embed_tokens\.weight"),
        (["stages.asr.train.llm.part='*embed*'"], r"^llm: no source fills model\.model\.layers\.0\."),
        (
            ["llm.lora.rank=2", "stages.asr.train.llm.part=lora"],
            r"^llm: no source fills model\.model\.embed_tokens",
        ),
        (
            ["llm.lora.rank=2", "stages.asr.train.llm.part='*embed*'", "llm.fixed=['*layers*', '*norm*']"],
            r"^llm\.lora: no stage trains the low-rank updates \(.*lora_A.* and \d more\)\. Train them "
            r"\(stages\.NAME\.train\.llm\.part: lora\), or leave llm\.lora out$",
        ),
        (
            [f"encoder={{name: dual, first: {PART}, second: {PART}, fixed: ['first.*', 'second.*']}}"],
            r"^encoder: no source fills norm_first\.weight, norm_first\.bias, norm_second\.weight and 1 more",
        ),
        (
            ["llm.fixed=['*embd*']"],
            r"^llm\.fixed: '\*embd\*' matches no parameter of the llm\..* Allowed: patterns",
        ),
    ],
)
def test_what_is_none_of_these_is_an_error(path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check(path, *overrides)
    (problem,) = caught.value.problems
    assert re.search(message, problem), problem


def test_what_is_fixed_is_trained_by_no_stage(path: Path) -> None:
    recipe = load_recipe(path, ["llm.fixed=['*embed_tokens*']"])
    model = assemble(recipe)
    trained = trainable_names(model, recipe.stages["asr"], where="asr")["llm"]
    assert "llm.model.model.embed_tokens.weight" not in trained
    assert trained
    assert "llm.model.model.embed_tokens.weight" in kept_names(model, recipe)


def test_a_sum_of_layers_trains_with_the_adapter_and_wakes_nothing(path: Path) -> None:
    """Its weights are fp32 before an encoder of bf16, whose dropout stays off."""
    recipe = load_recipe(path, [f"encoder={{{SUM}, dtype: bf16, fixed: ['model.*']}}"])
    model = assemble(recipe)
    found = trainable_names(model, recipe.stages["sft"], where="sft")
    assert [name for name in found["adapter"] if name.startswith("encoder.")] == ["encoder.taps.weight"]
    freeze_all_but(model, found["adapter"])
    assert model.encoder.get_parameter("taps.weight").dtype == torch.float32
    assert model.encoder.get_parameter("model.conv1.weight").dtype == torch.bfloat16
    assert not any(module.training for module in model.encoder.modules())
    assert model.adapter.training


def test_a_rate_of_its_own(path: Path) -> None:
    recipe = load_recipe(
        path,
        [f"encoder={{{SUM}, fixed: ['model.*']}}", "stages.asr.train.encoder={part: taps.weight, lr: 1e-2}"],
    )
    found = trainable_names(assemble(recipe), recipe.stages["asr"], where="asr")
    assert found["encoder"] == ["encoder.taps.weight"]
    assert not any(name.startswith("encoder.") for name in found["adapter"])
    fixed = load_recipe(path, [f"encoder={{{SUM}, fixed: ['*']}}"])
    names = trainable_names(assemble(fixed), fixed.stages["asr"], where="asr")["adapter"]
    assert not any(name.startswith("encoder.") for name in names)
