"""Shapes without weights: known ones, folders, the Hub's cache; and what is said of others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from kikimimi import LLMContext, WeightsError, find_weights
from kikimimi.contracts import registry
from kikimimi.costs.shapes import known_shapes, shapes_only
from kikimimi.recipe import load_recipe
from kikimimi.recipe.resolve import recipes_folder

KINDS = {
    "whisper": ("encoder", "whisper"),
    "voxtral": ("encoder", "whisper"),
    "qwen2_audio": ("encoder", "qwen2_audio"),
    "hubert": ("encoder", "hubert"),
    "wav2vec2": ("encoder", "wav2vec2"),
    "wavlm": ("encoder", "wavlm"),
    "wav2vec2-bert": ("encoder", "wav2vec2_bert"),
    "parakeet_ctc": ("encoder", "parakeet"),
    "beats": ("encoder", "beats"),
    "granite_speech": ("encoder", "granite_speech"),
    "llama": ("llm", "llama"),
    "qwen2": ("llm", "causal_lm"),
    "phi3": ("llm", "causal_lm"),
    "gpt2": ("llm", "causal_lm"),
    "granite": ("llm", "causal_lm"),
    "t5": ("llm", "seq2seq"),
    "mt5": ("llm", "seq2seq"),
}
ENTRIES = {entry["names"][0]: entry for entry in known_shapes().values()}
ENCODERS = {  # parameters of the encoder alone, without what training on unlabelled speech needs besides
    "openai/whisper-tiny": 8_208_384,
    "openai/whisper-base": 20_590_592,
    "openai/whisper-small": 88_154_112,
    "openai/whisper-medium": 307_216_384,
    "openai/whisper-large": 636_784_640,
    "openai/whisper-large-v3": 636_968_960,
    "facebook/wav2vec2-base": 94_370_944,
    "facebook/hubert-large-ll60k": 315_437_696,
}


def parameters(name: str) -> int:
    kind, plugin = KINDS[ENTRIES[name]["config"]["model_type"]]
    component = registry.load(kind, plugin)
    context = [LLMContext(measured=True)] if kind == "llm" else []
    with shapes_only(), torch.device("meta"):
        part: Any = component(component.Config(weights=name), *context)
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize("name", ENTRIES)
def test_known_shapes_have_the_published_number_of_parameters(name: str) -> None:
    entry = ENTRIES[name]
    found = parameters(name)
    if published := re.search(r"([\d,]+) parameters", entry["source"]):
        assert f"{found:,}" == published[1]
    elif name.startswith("llm-jp/"):
        assert found == 805_306_368 + 7_784_894_464
    elif name in ENCODERS:
        assert found == ENCODERS[name]
    assert found > 0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_shape_that_nobody_knows_says_how_to_give_it(cache: Path) -> None:
    with shapes_only(), pytest.raises(WeightsError) as error:
        find_weights("meta-llama/Llama-3.1-8C")
    assert "meta-llama/Llama-3.1-8C: its shape is not known here" in str(error.value)
    assert "Did you mean 'meta-llama/Llama-3.1-8B'?" in str(error.value)
    assert "hf download meta-llama/Llama-3.1-8C config.json" in str(error.value)
    with shapes_only(), pytest.raises(WeightsError, match="no source of weights"):
        find_weights("not a source")


def test_the_hubs_cache_is_read_where_a_shape_is_not_known(cache: Path) -> None:
    snapshot = cache / "models--org--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    with shapes_only():
        files = find_weights("org/model")
    assert files is not None
    assert files.read_json("config.json") == {"model_type": "llama"}
    assert files.revision == "0" * 40


def test_a_folder_comes_before_a_known_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "openai" / "whisper-base"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "other"}))
    with shapes_only():
        files = find_weights("openai/whisper-base")
        known = find_weights("openai/whisper-tiny@0123456789abcdef")
        assert known is not None
        assert known.read_json("config.json")["d_model"] == 384
    assert files is not None
    assert files.read_json("config.json") == {"model_type": "other"}
    assert not known.path("config.json").exists()  # gone with the context


@pytest.mark.parametrize("path", sorted(recipes_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_names_known_shapes_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nowhere")
    from kikimimi.planning.plan import Planner

    recipe = load_recipe(path)
    planner = Planner()
    for name in recipe.stages:
        model, _ = planner.model(recipe.at(name))
        assert {p.device.type for p in model.parameters()} == {"meta"}
