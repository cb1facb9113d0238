from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from kikimimi import PluginError, __version__
from kikimimi.data.corpus import all_texts, training_corpora
from kikimimi.errors import RecipeError
from kikimimi.inspect.describe import as_comments, describe
from kikimimi.model.assembly import assemble
from kikimimi.model.trainable import kept_names
from kikimimi.recipe import Chosen, LoRA, Recipe, Train, digest, load_recipe, to_yaml
from kikimimi.recipe.chosen import PARTS
from kikimimi.run.lock import lock, weights_lock
from kikimimi.testing import tiny_model, tiny_recipe, write_shard

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    shard = write_shard(tmp_path_factory.mktemp("data"), 3)
    found = tiny_recipe(load_recipe(QUICKSTART, ["encoder.weights=random"]), shard)
    return replace(found, encoder=replace(found.encoder, fixed=None))


def with_training(recipe: Recipe, **train: Train) -> Recipe:
    trained = {part: train[part] for part in PARTS if part in train}
    return replace(recipe, stages={"asr": replace(recipe.stages["asr"], train=trained)})


def test_a_part_that_no_stage_trains(recipe: Recipe) -> None:
    encoder, adapter, llm = describe(with_training(recipe, adapter=Train(lr=1.0)))
    assert (encoder.trainable, llm.trainable) == (0, 0)
    assert adapter.trainable == adapter.parameters != 0
    assert (adapter.distribution, adapter.version, adapter.weights) == ("kikimimi", __version__, "random")


def test_every_part_that_the_data_makes_sees_all_of_it(recipe: Recipe) -> None:
    changes = ["adapter={name: ctc, vocabulary: characters}", "llm.scratch.tokenizer=characters"]
    whole = load_recipe(QUICKSTART, changes)
    ctc = with_training(replace(recipe, adapter=whole.adapter, llm=whole.llm), adapter=Train(lr=1.0))
    _, adapter, llm = describe(ctc)
    model = assemble(ctc, texts=lambda: all_texts(training_corpora(ctc)))
    for described, part in ((adapter, model.adapter), (llm, model.llm)):
        assert described.parameters == sum(parameter.numel() for parameter in part.parameters())


def test_lora_counts(recipe: Recipe) -> None:
    lora = replace(recipe, llm=replace(recipe.llm, lora=LoRA(rank=2, targets=["q_proj"])))
    described = describe(with_training(lora, llm=Train(lr=1.0, part="lora")))[2]
    plain = describe(recipe)[2]
    added = sum(
        parameter.numel() for name, parameter in tiny_model(lora).llm.named_parameters() if ".lora_" in name
    )
    assert described.trainable == added > 0
    assert described.parameters == (plain.parameters or 0) + added


def test_stages_add_up(recipe: Recipe) -> None:
    stage = recipe.stages["asr"]
    stages = {
        "first": replace(stage, train={"adapter": Train(lr=1.0)}),
        "second": replace(stage, train={"llm": Train(lr=1.0)}),
    }
    encoder, adapter, llm = describe(replace(recipe, stages=stages))
    assert encoder.trainable == 0
    assert adapter.trainable == adapter.parameters
    assert llm.trainable == llm.parameters


def test_the_encoders_constants_are_not_trainable(recipe: Recipe) -> None:
    encoder = describe(with_training(recipe, encoder=Train(lr=1.0)))[0]
    model = tiny_model(recipe)
    fixed = sum(model.get_parameter(name).numel() for name in model.fixed if name.startswith("encoder."))
    assert encoder.trainable == (encoder.parameters or 0) - fixed


def test_a_part_of_a_name_that_matches_nothing(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"stages\.asr\.train\.llm\.part: 'layrs\.\*' matches no parameter"):
        describe(with_training(recipe, llm=Train(lr=1.0, part="layrs.*")))


def test_what_would_stay_random_is_told(recipe: Recipe) -> None:
    encoder, adapter, llm = described = describe(recipe)
    (problem,) = encoder.unfilled
    assert problem.startswith("encoder: no source fills model.conv1.weight")
    assert (adapter.unfilled, llm.unfilled) == ((), ())
    assert as_comments(described).splitlines()[4] == f"# error: {problem}"


def test_comments_are_comments(recipe: Recipe) -> None:
    recipe = replace(recipe, encoder=replace(recipe.encoder, fixed=["*"]))
    lines = as_comments(describe(recipe)).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("# ") for line in lines)
    assert all(">=" not in line for line in lines)
    llm = recipe.llm.config
    written = replace(llm, scratch=replace(llm.scratch, tokenizer="characters"))
    missing = replace(
        recipe,
        llm=replace(recipe.llm, config=written),
        stages={
            name: replace(
                stage, data={key: replace(data, shards="no\nsuch.tar") for key, data in stage.data.items()}
            )
            for name, stage in recipe.stages.items()
        },
    )
    lines = as_comments(describe(missing)).splitlines()
    assert all(line.startswith("# ") for line in lines)  # whatever the reason holds
    assert lines[3].count(">= ") == 2


def test_lock_pins_weights_files(recipe: Recipe, tmp_path: Path) -> None:
    assert weights_lock(None) is None
    assert weights_lock("random") == {"source": "random"}
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    assert weights_lock(str(tmp_path)) == {
        "source": str(tmp_path),
        "sha256": {"model.safetensors": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    }
    record = lock(recipe)
    assert record["recipe"] == {"sha256": digest(recipe), "yaml": to_yaml(recipe)}
    assert [record["plugins"][part]["name"] for part in ("encoder", "adapter", "llm")] == [
        "whisper",
        "mlp",
        "llama",
    ]


def test_an_unknown_plugin_is_told(recipe: Recipe) -> None:
    adapter = Chosen(kind="adapter", name="mpl", config=recipe.adapter.config)
    with pytest.raises(PluginError, match=r"no adapter is called 'mpl'\. Did you mean 'mlp'\?"):
        describe(replace(recipe, adapter=adapter))


def test_plugins_nested_in_a_plugin_are_told_too(recipe: Recipe, tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder, seed in ((first, 1), (second, 2)):
        sizes: dict[str, Any] = {
            "d_model": 16,
            "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16,
            "vocab_size": 60,
        }
        for side in ("encoder", "decoder"):
            sizes |= {f"{side}_layers": 1, f"{side}_attention_heads": 2}
        config = WhisperConfig(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)
        torch.manual_seed(seed)
        WhisperForConditionalGeneration(config).save_pretrained(folder)
    nested = {
        name: Chosen.of("encoder", "whisper", weights=str(folder))
        for name, folder in (("first", first), ("second", second))
    }
    both = replace(recipe, encoder=Chosen.of("encoder", "dual", **nested))
    assert describe(both)[0].weights == f"{first} + {second}"
    locked = lock(both)["plugins"]["encoder"]
    assert locked["name"] == "dual"
    hashes = [locked[name]["weights"]["sha256"]["model.safetensors"] for name in ("first", "second")]
    assert len(set(hashes)) == 2
    model = assemble(both)
    new = {name for name in kept_names(model, both) if name.startswith("encoder.")}
    assert new == {f"encoder.norm_{name}.{kind}" for name in nested for kind in ("weight", "bias")}
