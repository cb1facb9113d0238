"""What servers want of a custom model, vLLM's Transformers back end most of all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kikimimi.errors import WriteError
from kikimimi.model.assembly import assemble
from kikimimi.published.auto_map.writing import check_tensors, notes, write_auto_map
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.testing import tiny_recipe, write_shard

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
CLIP = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)
SHORT = CLIP[:5_000]


def written(folder: Path, *changes: str, dtype: torch.dtype | None = None) -> tuple[Path, Recipe]:
    shard = Path(write_shard(folder, 4))
    recipe = tiny_recipe(load_recipe(QUICKSTART, ["llm.scratch.tokenizer=bytes", *changes]), shard)
    write_auto_map(assemble(recipe), recipe, folder / "export", dtype=dtype)
    return folder / "export", recipe


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("mlp"))[0]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("cif"), "adapter={name: cif, vocabulary: bytes}")[0]


def opened(folder: Path, kind: Any = AutoModelForCausalLM, **options: Any) -> Any:
    return kind.from_pretrained(folder, trust_remote_code=True, **options)


def test_the_files_say_how_the_model_is_opened(export: Path) -> None:
    config = json.loads((export / "config.json").read_bytes())
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
    assert config["architectures"] == ["MLPSpeechModelForCausalLM"]
    assert config["text_config"]["model_type"] == "llama"
    processor = opened(export, AutoProcessor)
    most = processor.num_audio_tokens(processor.audio_config["max_samples"])
    assert config["audio_config"]["max_source_positions"] == most
    processing = json.loads((export / "processor_config.json").read_bytes())
    assert processing["auto_map"] == {"AutoProcessor": "processing_speech_lm.SpeechModelProcessor"}
    assert {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= {
        path.name for path in export.iterdir()
    }
    for module in export.glob("*.py"):
        assert "kikimimi." not in module.read_text(encoding="utf-8"), module.name


def test_the_body_is_what_the_back_end_takes(export: Path) -> None:
    config = AutoConfig.from_pretrained(export, trust_remote_code=True)
    body = AutoModel.from_config(config, trust_remote_code=True).eval()
    assert (type(body)._supports_attention_backend, type(body).base_model_prefix) == (True, "model")
    table = body.get_input_embeddings()
    assert table is body.language_model.get_input_embeddings()
    body.set_input_embeddings(table)
    assert body.get_encoder(modality="audio") is body.encoder
    asked: list[dict[str, Any]] = []

    def recording(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        asked.append(kwargs)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register("recording", recording)
    try:
        config.text_config._attn_implementation = "recording"
        body.language_model.config._attn_implementation = "recording"
        states = body(
            input_ids=None,
            inputs_embeds=table(torch.tensor([[1, 2, 3]])),
            position_ids=torch.arange(3)[None],
            use_cache=False,
            return_dict=False,
            attention_instances={0: "paged"},
        )
    finally:
        del ALL_ATTENTION_FUNCTIONS._global_mapping["recording"]
    assert isinstance(states, tuple)
    assert states[0].shape == (1, 3, table.weight.shape[1])
    assert [kwargs["attention_instances"] for kwargs in asked] == [{0: "paged"}] * 2


@pytest.mark.parametrize("rows", [1, 2])
def test_clips_come_as_tensors_or_as_lists_of_rows(rows: int, export: Path) -> None:
    processor, body = opened(export, AutoProcessor), opened(export, AutoModel)
    made = processor(text=["<|audio|><|audio|>"], audio=[CLIP, SHORT], return_tensors="pt", truncation=False)
    features, mask = made["input_features"], made["input_features_mask"]
    expected = body.get_audio_features(features, mask, return_dict=True).pooler_output
    counts = [processor.num_audio_tokens(len(clip)) for clip in (CLIP, SHORT)]
    assert expected.shape == (sum(counts), body.get_input_embeddings().weight.shape[1])
    assert (made["input_ids"] == processor.audio_token_id).sum() == len(expected)
    own = mask.sum(1).tolist()
    pieces = [(features[i : i + rows], mask[i : i + rows]) for i in range(0, 2, rows)]
    if rows == 1:  # each as long as it is
        pieces = [(f[..., :n], m[:, :n]) for (f, m), n in zip(pieces, own, strict=True)]
    listed = body.get_audio_features([f for f, _ in pieces], [m for _, m in pieces]).pooler_output
    assert (listed - expected).abs().max() < 1e-5
    assert processor.unused_input_names == ["num_audio_tokens"]


@pytest.mark.parametrize("length", [0, 40 * 16_000])
def test_a_clip_that_would_end_the_engine_is_refused_by_the_processor(length: int, export: Path) -> None:
    with pytest.raises(ValueError, match=f"a clip has {length} samples, and must have 1 to "):
        opened(export, AutoProcessor)(text=["<|audio|>"], audio=[np.zeros(length, np.float32)])


@pytest.mark.parametrize("kind", ["granite_speech", "qwen2_5_omni"])
def test_buffers_that_no_file_holds_are_filled(kind: str, tmp_path: Path) -> None:
    folder, _ = written(tmp_path, f"encoder={{name: {kind}, weights: random}}")
    model = opened(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    fresh = dict(AutoModelForCausalLM.from_config(config, trust_remote_code=True).named_buffers())
    held = load_file(folder / "model.safetensors")
    left = {name: value for name, value in model.named_buffers() if name not in held}
    assert any(name.startswith("encoder.") for name in left)
    assert any(name.startswith("llm.") for name in left)
    for name, value in left.items():
        assert torch.equal(value, fresh[name]), name


@pytest.mark.parametrize("kind", ["granite_speech", "parakeet", "phi4_multimodal", "qwen3_omni"])
def test_linear_layers_of_a_tower_take_rows_that_lie_together(kind: str, tmp_path: Path) -> None:
    folder, _ = written(tmp_path, f"encoder={{name: {kind}, weights: random}}")
    model, processor = opened(folder), opened(folder, AutoProcessor)
    steps: list[int] = []
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Linear):  # vLLM's own on the CPU takes no other
            module.register_forward_pre_hook(lambda _, given: steps.append(given[0].stride(-1)))
    made = processor(text=["<|audio|>"], audio=[CLIP], return_tensors="pt")
    model.get_audio_features(made["input_features"], made["input_features_mask"])
    assert set(steps) == {1}


def test_a_missing_weight_or_one_of_another_shape_is_an_error() -> None:
    whole = {"a": torch.zeros(2), "b": torch.zeros(3)}
    check_tensors(whole, dict(whole))
    for found in ({"a": torch.zeros(2)}, {**whole, "b": torch.zeros(2)}, {**whole, "c": torch.zeros(1)}):
        with pytest.raises(WriteError, match=r"has other tensors than this one: [bc] "):
            check_tensors(whole, found)


def test_models_that_hear_how_many_tokens_there_are_say_no_to_vllm(heard: Path) -> None:
    model = opened(heard)
    asked = (type(model)._supports_attention_backend, type(model)._can_set_attn_implementation())
    assert asked == (False, False)  # with either it would be served, and hear other tokens
    assert model.llm.config._attn_implementation == "sdpa"
    recipe = load_recipe(QUICKSTART, ["adapter=cif"])
    assert any(
        "Adapter 'cif' gives as many audio tokens as it hears things" in note for note in notes(recipe)
    )
    assert not any("vLLM" in note for note in notes(load_recipe(QUICKSTART)))


def test_a_placeholder_becomes_as_many_tokens_as_are_heard(heard: Path) -> None:
    processor, model = opened(heard, AutoProcessor), opened(heard).eval()
    texts = ["a<|audio|>b<|audio|>", "cd"]
    inputs = processor(text=texts, audio=[CLIP, SHORT], return_tensors="pt")
    assert inputs["input_ids"].shape[1] == 4
    clips = model.hear(inputs["input_features"], inputs["input_features_mask"])
    counts = [len(clip) for clip in clips]
    assert counts[0] > counts[1] > 1
    labels = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], -100)
    embeds, mask, told = model.expand_inputs(**inputs, labels=labels)
    assert embeds.shape[:2] == mask.shape == told.shape == (2, sum(counts) + 2)
    assert mask.sum(1).tolist() == [sum(counts) + 2, 2]
    table = model.get_input_embeddings().weight
    places = [0, counts[0] + 1]  # of "a" and "b"
    ids = processor.tokenizer("ab", add_special_tokens=False)["input_ids"]
    assert torch.equal(embeds[0, places], table[ids])
    assert torch.equal(embeds[0, 1 : counts[0] + 1], clips[0])
    assert told[0, places].tolist() == ids
    assert (told >= 0).sum() == 4
    assert told[1, -2:].tolist() == processor.tokenizer("cd", add_special_tokens=False)["input_ids"]
    output = model(**inputs, labels=labels)
    assert output.logits.shape[:2] == mask.shape
    output.loss.backward()
    assert model.adapter.weights.conv.weight.grad.abs().max() > 0
    beams = model.generate(**inputs, max_new_tokens=3, num_beams=2, num_return_sequences=2, eos_token_id=None)
    assert beams.shape == (4, 7)
    assert torch.equal(beams[::2, :4], inputs["input_ids"])


def test_what_cannot_be_heard_is_said(heard: Path) -> None:
    processor, model = opened(heard, AutoProcessor), opened(heard)
    inputs = processor(text=["<|audio|>"], audio=[SHORT], return_tensors="pt")
    with pytest.raises(ValueError, match="1 placeholders for 0 clips"):
        model(input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match="use_cache=False"):
        model.generate(**inputs, use_cache=False)


def test_the_number_format_is_chosen_for_all_parts(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, "encoder={name: parakeet, weights: random}", dtype=torch.bfloat16)
    held = load_file(folder / "model.safetensors")
    assert {value.dtype for value in held.values()} == {torch.bfloat16, torch.int64}
    assert [name for name, value in held.items() if value.dtype == torch.int64] == [
        name for name in held if name.endswith(".num_batches_tracked")
    ]
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert config.dtype == config.text_config.dtype == torch.bfloat16
