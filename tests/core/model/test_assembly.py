from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kikimimi import AudioPart, Conversation, Message, TextPart
from kikimimi.contracts.batch import Sample, collate
from kikimimi.errors import RecipeError
from kikimimi.model.assembly import assemble
from kikimimi.model.trainable import freeze_all_but, kept_names, trainable_names
from kikimimi.recipe import Recipe, digest, load_recipe
from kikimimi.testing import tiny_model

RECIPE = """
name: small
encoder: {name: whisper, weights: random, sizes: {dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64}}
adapter: {name: mlp}
llm:
  name: llama
  scratch: {dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64, dropout: 0.1, tokenizer: bytes}
stages:
  align: {train: {adapter: {lr: 0.1}}, data: {x: {shards: x.tar, task: chat}}, steps: 1}
  tune: {train: {llm: {part: "model.model.layers.1.*"}}, data: {x: {shards: x.tar, task: chat}}, steps: 1}
"""


@pytest.fixture
def load(tmp_path: Path) -> Any:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return lambda *overrides: load_recipe(path, overrides)


def test_modes_follow_what_trains(load: Any) -> None:
    recipe: Recipe = load()
    model: Any = assemble(recipe)
    freeze_all_but(model, trainable_names(model, recipe.stages["tune"], where="stages.tune")["llm"])
    modes = {name: module.training for name, module in model.llm.named_modules()}
    assert modes["model.model.layers.1.self_attn"]
    assert not modes["model.model.layers.0.self_attn"]
    assert not model.encoder.training
    assert not model.adapter.training


def test_dropout_goes_with_what_it_is_part_of(load: Any) -> None:
    recipe: Recipe = load(
        "llm.lora={rank: 2, dropout: 0.5, targets: [q_proj]}", "stages.tune.train.llm.part=lora"
    )
    model: Any = assemble(recipe)
    freeze_all_but(model, trainable_names(model, recipe.stages["tune"], where="stages.tune")["llm"])
    dropouts = {n: m.training for n, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert dropouts
    assert all(dropouts.values())
    assert not model.get_submodule("llm.model.model.layers.0.mlp").training


def test_half_precision_spares_tables_that_are_computed(load: Any) -> None:
    recipe: Recipe = load("llm.dtype=bf16", "encoder.dtype=fp16")
    model: Any = assemble(recipe)
    assert {p.dtype for p in model.llm.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.encoder.parameters()} == {torch.float16}
    assert {p.dtype for p in model.adapter.parameters()} == {torch.float32}
    assert model.llm.model.model.rotary_emb.inv_freq.dtype == torch.float32
    whole = assemble(load())
    for name, parameter in model.llm.named_parameters():
        assert torch.equal(parameter, whole.llm.get_parameter(name).to(torch.bfloat16)), name


def test_checkpoints_refer_to_what_a_source_holds(load: Any, tmp_path: Path) -> None:
    random: Any = assemble(load())
    random.llm.model.save_pretrained(tmp_path / "llm")
    random.llm.chat.tokenizer.save_pretrained(tmp_path / "llm")
    recipe: Recipe = load(f"llm={{name: llama, weights: {tmp_path / 'llm'}, lora: {{rank: 2}}}}")
    model = assemble(recipe)
    for name, parameter in random.llm.named_parameters():
        renamed = name.replace("q_proj", "q_proj.base_layer").replace("v_proj", "v_proj.base_layer")
        assert torch.equal(model.llm.get_parameter(renamed), parameter)
        assert f"llm.{renamed}" in model.pretrained
    kept = {name for name in kept_names(model, recipe) if name.startswith("llm.")}
    trained = {f"llm.{n}" for n, _ in model.llm.named_parameters() if ".layers.1." in n or ".lora_" in n}
    assert kept == trained
    assert {name for name, _ in model.encoder.named_parameters(prefix="encoder")} <= kept_names(model, recipe)


def test_the_adapter_is_told_of_the_others(load: Any) -> None:
    model = assemble(load(), texts=lambda: ["はい"])
    context = model.adapter.context
    assert (context.in_dim, context.out_dim, context.num_concat_layers, context.frame_rate) == (
        32,
        32,
        1,
        50.0,
    )
    assert context.vocabulary is not None
    assert context.vocabulary.size == model.llm.vocab_size
    assert context.vocabulary.decode(context.vocabulary.encode("はい")) == "はい"
    # Only while it is built: the texts are a way to the data, which no other process can be sent.
    assert context.texts is None
    assert pickle.loads(pickle.dumps(model)).adapter.context.in_dim == 32


def test_tiny_keeps_dtype_and_updates(load: Any) -> None:
    recipe: Recipe = load("llm.dtype=bf16", "llm.lora={rank: 2}")
    assert {p.dtype for p in tiny_model(recipe).llm.parameters()} == {torch.bfloat16, torch.float32}
    assert digest(replace(recipe)) == digest(recipe)


def test_an_encoder_of_half_precision_feeds_an_adapter_of_full_precision(load: Any) -> None:
    recipe: Recipe = load("encoder.dtype=bf16", "llm.dtype=bf16")
    model = assemble(recipe)
    turns = (Message("user", (AudioPart("0.flac"),)), Message("assistant", (TextPart("はい"),)))
    sample = Sample("x", model.llm.render(Conversation(turns)), [torch.randn(4000) * 0.1])
    model(collate([sample])).logits.float().sum().backward()
    gradients = [p.grad for p in model.adapter.parameters()]
    assert all(g is not None and g.dtype == torch.float32 and g.any() for g in gradients)


@pytest.mark.parametrize(
    "option",
    [
        "llm.scratch.dim=1000000000000",
        "adapter.hidden_dim=1000000000000",
        "encoder.sizes.ffn_dim=9999999999999",
    ],
)
def test_what_no_machine_holds_is_one_line(load: Any, option: str) -> None:
    where = option.partition(".")[0]
    with pytest.raises(
        RecipeError, match=rf"{where}: is too large to be built on this machine: .* what you meant"
    ):
        assemble(load(option))
