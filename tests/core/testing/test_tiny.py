"""Every shipped recipe is assembled with tiny components; what a tiny recipe keeps of the given one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kikimimi import Generation
from kikimimi.contracts import registry
from kikimimi.contracts.batch import collate
from kikimimi.data.corpus import Corpus
from kikimimi.errors import RecipeError
from kikimimi.model.trainable import freeze_all_but, trainable_names
from kikimimi.recipe import Chosen, Evaluation, LoRA, Recipe, Trainer, load_recipe, to_yaml
from kikimimi.testing import tiny_model, tiny_recipe, write_shard

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"


@pytest.fixture
def shards(tmp_path: Path) -> str:
    return write_shard(tmp_path / "clips")


@pytest.fixture
def conversations(tmp_path: Path) -> str:
    return write_shard(tmp_path / "conversations", prefix="talk", form="conversations")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_stage_of_a_recipe_moves_its_parameters(path: Path, shards: str, conversations: str) -> None:
    recipe = tiny_recipe(load_recipe(path), shards, conversations=conversations)
    model = tiny_model(recipe)
    assert sum(p.numel() for p in model.parameters()) < 3_000_000
    for name, stage in recipe.stages.items():
        names = trainable_names(model, stage, where=name)
        freeze_all_but(model, [parameter for found in names.values() for parameter in found])
        dataset, source = next(iter(stage.data.items()))
        corpus = Corpus.open(dataset, source)
        rate = model.encoder.sample_rate
        batch = collate([corpus.sample(row, model.llm, rate, phrasing_seed=None) for row in range(3)])
        scored = model(batch)
        torch.nn.functional.cross_entropy(scored.logits, scored.targets).backward()  # type: ignore[no-untyped-call]
        for part, found in names.items():
            gradients = [model.get_parameter(parameter).grad for parameter in found]
            assert any(g is not None and bool(g.any()) for g in gradients), f"{name}: {part}"


def test_what_a_tiny_recipe_keeps_and_changes(shards: str) -> None:
    given = load_recipe(QUICKSTART)
    recipe = tiny_recipe(given, shards)
    stage = recipe.stages["asr"]
    assert (stage.steps, stage.schedule.warmup, stage.schedule.name) == (2, 1, "cosine")
    assert [data.shards for data in stage.data.values()] == [shards]
    assert [data.shards for data in stage.validate.data.values()] == [shards]
    assert [evaluation.shards for evaluation in recipe.evaluate.values()] == [shards]
    assert all(evaluation.baselines == {} for evaluation in recipe.evaluate.values())
    assert recipe.trainer == Trainer(accelerator="cpu", log_every=1, cache_features=False)
    assert stage.train == given.stages["asr"].train
    assert stage.data["sentences"].task == given.stages["asr"].data["sentences"].task
    assert recipe.adapter.config.downsample == given.adapter.config.downsample


def test_a_tiny_recipe_is_a_recipe(tmp_path: Path, shards: str) -> None:
    recipe = tiny_recipe(load_recipe(QUICKSTART), shards)
    path = tmp_path / "tiny.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


def with_lora(recipe: Recipe, *targets: str) -> Recipe:
    return replace(recipe, llm=replace(recipe.llm, lora=LoRA(rank=2, targets=list(targets))))


def test_lora_stays() -> None:
    model = tiny_model(with_lora(load_recipe(QUICKSTART), "q_proj"))
    assert sum("q_proj.lora_A" in name for name, _ in model.llm.named_parameters()) == 2


def test_lora_on_layers_that_do_not_exist_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"llm\.lora\.targets: no linear layer is called qq_proj"):
        tiny_model(with_lora(load_recipe(QUICKSTART), "qq_proj"))


def test_fp16_becomes_bf16(shards: str) -> None:
    given = replace(load_recipe(QUICKSTART), trainer=Trainer(precision="fp16", devices=8, nodes=2))
    trainer = tiny_recipe(given, shards).trainer
    assert (trainer.precision, trainer.devices, trainer.nodes) == ("bf16", 1, 1)


def test_a_chat_needs_conversations(shards: str, conversations: str) -> None:
    chat = Chosen(kind="task", name="chat", config=registry.load("task", "chat").Config())
    given = replace(load_recipe(QUICKSTART), evaluate={"talk": Evaluation(shards="x", task=chat)})
    with pytest.raises(ValueError, match=r"evaluate\.talk: task 'chat' takes no labelled clips; give"):
        tiny_recipe(given, shards)
    recipe = tiny_recipe(given, shards, conversations=conversations)
    assert recipe.evaluate["talk"].shards == conversations
    assert recipe.stages["asr"].data["sentences"].shards == shards


def test_what_a_stage_lets_the_model_write_is_short(shards: str) -> None:
    long = Generation(max_new_tokens=300, temperature=0.7)
    own = Chosen.of("objective", "distill", continuation="own", generate=long)
    both = Chosen.of("objective", "sum", terms={"text": Chosen.of("objective", "ce"), "like": own})
    given = load_recipe(QUICKSTART)
    name, stage = next(iter(given.stages.items()))
    for objective in (own, both):
        recipe = tiny_recipe(replace(given, stages={name: replace(stage, objective=objective)}), shards)
        found = recipe.stages[name].objective
        term = found if found.name == "distill" else found.config.terms["like"]
        assert term.config.generate == replace(long, max_new_tokens=4)
        assert term.config.continuation == "own"
