"""Recipes of published systems: the sizes of adapters and low-rank updates, worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from kikimimi import Adapter, AdapterContext, Chosen
from kikimimi.contracts.vocabulary import BytesVocabulary
from kikimimi.model.lora import add_lora
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.recipe.resolve import shipped_recipe
from kikimimi_encoders.whisper.whisper import Sizes as WhisperSizes


@cache
def recipe_of(name: str) -> Recipe:
    return load_recipe(shipped_recipe(name))


def million(number: float) -> Any:
    """What a figure given in millions with one decimal may stand for."""
    return pytest.approx(number * 1e6, abs=0.05e6)


# Sizes by hand.


def linear(source: int, target: int) -> int:
    return source * target + target


def conv(kernel: int, source: int, target: int) -> int:
    return kernel * source * target + target


def norm(width: int) -> int:
    return 2 * width


def qformer_layer(source: int) -> int:
    """BERT-base's layer with attention to frames `source` wide."""
    own = 4 * linear(768, 768) + norm(768)
    frames = 2 * linear(768, 768) + 2 * linear(source, 768) + norm(768)
    return own + frames + linear(768, 3072) + linear(3072, 768) + norm(768)


def whisper_block(width: int) -> int:
    """A block of OpenAI's Whisper, whose keys have no bias."""
    return (
        4 * linear(width, width)
        - width
        + linear(width, 4 * width)
        + linear(4 * width, width)
        + 2 * norm(width)
    )


def conformer_adapter(source: int, target: int) -> int:
    """Two convolutions and two transformer layers, 2,240 wide."""
    layer = 4 * linear(2240, 2240) + linear(2240, 8960) + linear(8960, 2240) + 2 * norm(2240)
    return conv(3, source, 2240) + conv(3, 2240, 2240) + 2 * layer + norm(2240) + linear(2240, target)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What an adapter stands between, and what it then has to weigh."""

    in_dim: int
    out_dim: int
    num_parameters: int
    num_concat_layers: int = 1
    frame_rate: float = 50.0
    vocabulary_size: int | None = None


ADAPTERS = {
    # Whisper-large-v2 (1280) and BEATs (768) side by side, Vicuna-13B; one query and the norm it passes.
    "salmonn-13b": Sizes(
        in_dim=1280 + 768,
        out_dim=5120,
        num_parameters=768 + norm(768) + 2 * qformer_layer(2048) + linear(768, 5120),
    ),
    # All layers of Whisper-large, Vicuna-7B.
    "ltu-as": Sizes(
        in_dim=32 * 1280,
        num_concat_layers=32,
        out_dim=4096,
        num_parameters=2 * whisper_block(1280) + linear(1280, 4096),
    ),
    # Four layers of Whisper-small, Llama-3-8B; 64 queries for each layer, and as many mixtures of four.
    "desta2": Sizes(
        in_dim=4 * 768,
        num_concat_layers=4,
        out_dim=4096,
        num_parameters=4 * 64 * 768 + 64 * 4 + 2 * qformer_layer(768) + norm(768) + linear(768, 4096),
    ),
    # wav2vec 2.0 base, GPT-2.
    "wavprompt": Sizes(in_dim=768, out_dim=768, num_parameters=conv(8, 768, 768)),
    # Whisper-small, Llama-2-7B; gates double what a convolution gives, and the bottleneck has no bias.
    "blsp": Sizes(
        in_dim=768,
        out_dim=4096,
        num_parameters=2 * conv(5, 768, 2 * 768) + conv(5, 768, 2 * 4096) + 2 * 4096 * 512 + norm(4096),
    ),
    # WavLM-large, Flan-T5-XL.
    "speechverse": Sizes(
        in_dim=1024,
        out_dim=2048,
        num_parameters=conv(3, 1024, 2048) + conv(3, 2048, 2048) + 2 * norm(2048),
    ),
    # W2v-BERT 2.0 in place of USM, mT0-XXL.
    "slm": Sizes(in_dim=1024, out_dim=4096, num_parameters=conformer_adapter(1024, 4096)),
    # HuBERT-large with its head of 32 labels, LLaMA-7B.
    "speech-llama": Sizes(
        in_dim=1024,
        out_dim=4096,
        num_parameters=linear(1024, 32) + linear(1024, 4096) + linear(4096, 4096),
    ),
    # Parakeet at 12.5 Hz, Phi-3-mini, whose 32,064 tokens and blank are the labels.
    "alignformer": Sizes(
        in_dim=1024,
        out_dim=3072,
        frame_rate=12.5,
        vocabulary_size=32064,
        num_parameters=linear(1024, 32065) + 768 + norm(768) + 2 * qformer_layer(1024) + linear(768, 3072),
    ),
    # Whisper-large-v3, LLM-jp-4 8B; no biases.
    "llm_jp_4_8b_ja": Sizes(in_dim=1280, out_dim=4096, num_parameters=1280 * 8192 + 8192 * 4096),
    # Whisper-large-v3, Llama-3.1-8B.
    "llama-omni": Sizes(
        in_dim=1280, out_dim=4096, num_parameters=linear(5 * 1280, 2048) + linear(2048, 4096)
    ),
    # Whisper-large-v3, Ministral 3B; no biases.
    "voxtral-mini": Sizes(in_dim=1280, out_dim=3072, num_parameters=4 * 1280 * 3072 + 3072 * 3072),
    # Whisper-large-v2 with pairs of frames averaged inside, Qwen-7B; vectors before and after the audio.
    "qwen-audio": Sizes(
        in_dim=1280, out_dim=4096, frame_rate=25.0, num_parameters=linear(1280, 4096) + 2 * 4096
    ),
    "qwen2-audio": Sizes(in_dim=1280, out_dim=4096, frame_rate=25.0, num_parameters=linear(1280, 4096)),
    # A Conformer of 1,024, Phi-4-mini.
    "phi-4-multimodal": Sizes(
        in_dim=1024, out_dim=3072, frame_rate=12.5, num_parameters=linear(1024, 3072) + linear(3072, 3072)
    ),
    # A Conformer of 1,024, Granite 3.3 2B; three queries and the norm they pass.
    "granite-speech": Sizes(
        in_dim=1024,
        out_dim=2048,
        num_parameters=3 * 1024
        + norm(1024)
        + 2 * (8 * linear(1024, 1024) + linear(1024, 4096) + linear(4096, 1024) + 3 * norm(1024))
        + linear(1024, 2048),
    ),
    # Whisper-large-v3-turbo, Llama-3.1-8B; norms of stacks and of what passes the gate, no biases.
    "ultravox": Sizes(
        in_dim=1280,
        out_dim=4096,
        num_parameters=8 * 1280 + 8 * 1280 * 2 * 2048 + 2048 + 2048 * 4096,
    ),
    # A Conformer of 512, Llama-2-7B.
    "audiochatllama": Sizes(in_dim=512, out_dim=4096, frame_rate=12.5, num_parameters=linear(512, 4096)),
    # A Conformer of 1,536, Llama-3.1-8B; the layer has a gated feed-forward network.
    "llama-3-speech": Sizes(
        in_dim=1536,
        out_dim=4096,
        frame_rate=25.0,
        num_parameters=conv(3, 1536, 3072)
        + 4 * linear(3072, 3072)
        + 2 * linear(3072, 4096)
        + linear(4096, 3072)
        + 3 * norm(3072)
        + linear(3072, 4096),
    ),
}


def build_adapter(recipe: Recipe, sizes: Sizes, folder: Path) -> Adapter:
    """Build a recipe's adapter at full size, without memory; a published CTC head has 32 labels."""
    vocabulary = BytesVocabulary()
    vocabulary.size = sizes.vocabulary_size or vocabulary.size
    config = recipe.adapter.config
    if getattr(config, "head_weights", "random") != "random":
        (folder / "config.json").write_text(json.dumps({"vocab_size": 32, "pad_token_id": 0}))
        (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 3, "|": 4}))
        config = replace(config, head_weights=str(folder))
    context = AdapterContext(
        in_dim=sizes.in_dim,
        out_dim=sizes.out_dim,
        num_concat_layers=sizes.num_concat_layers,
        frame_rate=sizes.frame_rate,
        vocabulary=vocabulary,
    )
    with torch.device("meta"):
        adapter = recipe.adapter.component(config, context)
    assert isinstance(adapter, Adapter)
    return adapter


def tiny_of(chosen: Chosen) -> Any:
    """Return the config of a tiny encoder whose window is that of the published one."""
    config: Any = chosen.component.tiny_config(chosen.config)
    if chosen.name == "dual":
        parts = {name: replace(part, config=tiny_of(part)) for name, part in chosen.nested().items()}
        return replace(config, **parts)
    positions = getattr(config.sizes, "num_positions", None)
    return config if positions is None else replace(config, sizes=replace(config.sizes, num_positions=1500))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_adapter_has_as_many_parameters_as_worked_out_by_hand(name: str, tmp_path: Path) -> None:
    assert count(build_adapter(recipe_of(name), ADAPTERS[name], tmp_path)) == ADAPTERS[name].num_parameters


# Low-rank updates: what they stand beside, by hand and in an LLM of the published size.


def llama(dim: int, layers: int, ffn_dim: int) -> Callable[[], nn.Module]:
    config: dict[str, Any] = {"hidden_size": dim, "num_hidden_layers": layers, "intermediate_size": ffn_dim}
    heads: dict[str, Any] = {"num_attention_heads": dim // 128, "num_key_value_heads": dim // 128}
    return lambda: LlamaForCausalLM(LlamaConfig(**config, **heads, vocab_size=32000))


def phi_4_mini() -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": 3072, "num_hidden_layers": 32, "intermediate_size": 8192}
    heads: dict[str, Any] = {"num_attention_heads": 24, "num_key_value_heads": 8}
    model: nn.Module = Phi3ForCausalLM(Phi3Config(**sizes, **heads, vocab_size=200064, pad_token_id=0))
    return model


def granite_2b() -> nn.Module:
    sizes: dict[str, Any] = {"hidden_size": 2048, "num_hidden_layers": 40, "intermediate_size": 8192}
    heads: dict[str, Any] = {"num_attention_heads": 32, "num_key_value_heads": 8}
    model: nn.Module = GraniteForCausalLM(GraniteConfig(**sizes, **heads, vocab_size=49159))
    return model


def flan_t5_xl() -> nn.Module:
    sizes: dict[str, Any] = {"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32}
    config = T5Config(**sizes, vocab_size=32128, feed_forward_proj="gated-gelu")
    model: nn.Module = T5ForConditionalGeneration(config)
    return model


@dataclass(frozen=True, kw_only=True)
class Updates:
    """An LLM, and the parameters of its updates: rank x (inputs + outputs) for each adapted layer."""

    build: Callable[[], nn.Module]
    num_parameters: int


UPDATES = {
    "salmonn-13b": Updates(build=llama(5120, 40, 13824), num_parameters=40 * 2 * 8 * (5120 + 5120)),
    "ltu-as": Updates(build=llama(4096, 32, 11008), num_parameters=32 * 2 * 8 * (4096 + 4096)),
    # 24 layers that read, 24 that write, each of which attends to itself and to what was read.
    "speechverse": Updates(build=flan_t5_xl, num_parameters=(24 + 2 * 24) * 2 * 16 * (2048 + 2048)),
    "speech-llama": Updates(build=llama(4096, 32, 11008), num_parameters=32 * 4 * 2 * (4096 + 4096)),
    "llm_jp_4_8b_ja_lora": Updates(build=llama(4096, 32, 14336), num_parameters=32 * 2 * 16 * (4096 + 4096)),
    "granite-speech": Updates(build=granite_2b, num_parameters=40 * 64 * ((2048 + 2048) + (2048 + 8 * 64))),
    # Queries, keys and values together; the output; the two inputs of the gate together; its output.
    "phi-4-multimodal": Updates(
        build=phi_4_mini,
        num_parameters=32 * 320 * ((3072 + 5120) + (3072 + 3072) + (3072 + 2 * 8192) + (8192 + 3072)),
    ),
}


@pytest.mark.parametrize("name", UPDATES)
def test_the_low_rank_updates_have_as_many_parameters_as_worked_out_by_hand(name: str) -> None:
    lora = recipe_of(name).llm.lora
    assert lora is not None
    with torch.device("meta"):
        model = UPDATES[name].build()
        add_lora(model, lora, where="llm")
    updates = {key: value for key, value in model.named_parameters() if ".lora_" in key}
    assert sum(parameter.numel() for parameter in updates.values()) == UPDATES[name].num_parameters


def trained(name: str, other: int = 0) -> int:
    """Parameters of a recipe's adapter and low-rank updates, and others."""
    return ADAPTERS[name].num_parameters + UPDATES[name].num_parameters + other


def test_salmonn_trains_about_33_million_parameters() -> None:
    norms = norm(1280) + norm(768)
    assert trained("salmonn-13b", norms) == 33_332_992


def test_speechverse_trains_28_3_million_parameters_and_26_8_with_its_other_encoder() -> None:
    assert trained("speechverse") == million(28.3)
    # BEST-RQ is 768 wide; the shares of its 24 layers are learned too.
    assert trained("speechverse", conv(3, 768, 2048) - conv(3, 1024, 2048) + 24) == million(26.8)


def test_slm_has_about_156_million_parameters_on_its_own_encoder(tmp_path: Path) -> None:
    """The widths are a choice, as they are not published: within 1 % of the figure that is."""
    usm = replace(ADAPTERS["slm"], in_dim=1536)
    number = count(build_adapter(recipe_of("slm"), usm, tmp_path))
    assert number == conformer_adapter(1536, 4096) == pytest.approx(156e6, rel=0.01)


def test_the_japanese_speech_llm_has_an_adapter_of_44_0_million_parameters() -> None:
    assert ADAPTERS["llm_jp_4_8b_ja"].num_parameters == million(44.0)
    assert recipe_of("llm_jp_4_8b_ja_lora").adapter == recipe_of("llm_jp_4_8b_ja").adapter


def test_voxtral_has_an_adapter_of_25_or_52_million_parameters(tmp_path: Path) -> None:
    recipe, sizes = recipe_of("voxtral-mini"), ADAPTERS["voxtral-mini"]
    assert sizes.num_parameters == pytest.approx(25e6, rel=0.01)
    small = replace(sizes, out_dim=5120)
    assert count(build_adapter(recipe, small, tmp_path)) == pytest.approx(52e6, rel=0.01)


def test_ultravox_has_a_projector_of_50_3_million_parameters_and_a_small_update_of_its_encoder() -> None:
    assert ADAPTERS["ultravox"].num_parameters == million(50.3)
    recipe = recipe_of("ultravox")
    assert recipe.encoder.lora is not None
    sizes = WhisperSizes(dim=1280, num_layers=32, num_heads=20, ffn_dim=5120, num_mels=128)
    with torch.device("meta"):
        config = replace(recipe.encoder.config, weights="random", sizes=sizes)
        encoder = recipe.encoder.component(config)
        add_lora(encoder, recipe.encoder.lora, where="encoder")
    updates = [value.numel() for key, value in encoder.named_parameters() if ".lora_" in key]
    assert sum(updates) == 32 * 2 * 8 * (1280 + 1280)


def test_phi_4_multimodal_has_updates_of_460_million_parameters() -> None:
    assert UPDATES["phi-4-multimodal"].num_parameters == pytest.approx(460e6, rel=0.005)


def test_phi_4_multimodal_has_an_encoder_and_a_projector_of_about_460_million_parameters() -> None:
    recipe = recipe_of("phi-4-multimodal")
    with torch.device("meta"):
        encoder = recipe.encoder.component(recipe.encoder.config)
    assert count(encoder) == million(441.3)
    assert count(encoder) + ADAPTERS["phi-4-multimodal"].num_parameters == pytest.approx(460e6, rel=0.015)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("salmonn-13b", 88),
        ("desta2", 64),
        ("voxtral-mini", 375),
        ("llama-omni", 300),
        # Of two seconds of audio the others give the clip's own.
        ("llm_jp_4_8b_ja", 25),
        ("blsp", 13),
        ("qwen-audio", 52),
        ("granite-speech", 21),
        ("ultravox", 13),
    ],
)
def test_a_short_clip_has_as_many_tokens_as_in_the_source(name: str, tokens: int, tmp_path: Path) -> None:
    recipe = recipe_of(name)
    config = tiny_of(recipe.encoder)
    with torch.device("meta"):
        encoder = recipe.encoder.component(config)
    frames = encoder.num_frames(2 * 16_000)
    assert build_adapter(recipe, ADAPTERS[name], tmp_path).max_tokens(frames) == tokens


def test_llama_3_has_an_encoder_of_1_billion_and_an_adapter_of_100_million_parameters() -> None:
    recipe = recipe_of("llama-3-speech")
    with torch.device("meta"):
        encoder = recipe.encoder.component(recipe.encoder.config)
    assert count(encoder) == pytest.approx(1e9, rel=0.1)
    assert (encoder.dim, encoder.frame_rate) == (1536, 25.0)
    assert ADAPTERS["llama-3-speech"].num_parameters == pytest.approx(100e6, rel=0.03)


def test_ltu_as_trains_49_million_parameters() -> None:
    assert trained("ltu-as") == 44_599_296 + 4_194_304


def test_speech_llama_has_updates_of_2_1_million_parameters() -> None:
    assert UPDATES["speech-llama"].num_parameters == million(2.1)


# Tokens per clip.


@pytest.mark.parametrize(
    ("name", "frames", "tokens"),
    [
        ("salmonn-13b", 1500, 88),  # 30 s in windows of 17 frames; the last four frames are dropped
        ("ltu-as", 500, 25),  # 10 s
        ("desta2", 1500, 64),
        ("wavprompt", 400, 50),
        ("blsp", 1500, 188),
        ("speechverse", 500, 125),  # 12.5 Hz
        ("slm", 500, 125),
        ("llm_jp_4_8b_ja", 1500, 375),
        ("llama-omni", 1500, 300),
        ("llama-omni", 1504, 300),  # frames that do not fill a token are dropped
        ("voxtral-mini", 1500, 375),
        ("qwen-audio", 750, 752),  # 25 Hz, and the two vectors around
        ("qwen2-audio", 750, 750),
        ("phi-4-multimodal", 375, 375),  # 80 ms
        ("llama-3-speech", 750, 375),  # 80 ms
        ("granite-speech", 1500, 300),  # 10 Hz
        ("granite-speech", 1501, 303),  # zeros fill the last window
    ],
)
def test_tokens_per_clip(name: str, frames: int, tokens: int, tmp_path: Path) -> None:
    assert build_adapter(recipe_of(name), ADAPTERS[name], tmp_path).max_tokens(frames) == tokens
