"""Voxtral in Mistral's own files, which alone vLLM takes: params.json, consolidated.safetensors and more."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from kikimimi.published.served import Files, Format, Trained
from kikimimi.published.voxtral import TOKEN, VOXTRAL

if TYPE_CHECKING:
    from torch import Tensor

_WHISPER = "mm_whisper_embeddings.whisper_encoder."
_NAMES = (
    (r"language_model\.model\.embed_tokens\.", "mm_whisper_embeddings.tok_embeddings."),
    (r"language_model\.model\.norm\.", "norm."),
    (r"language_model\.lm_head\.", "output."),
    (r"language_model\.model\.layers\.(\d+)\.self_attn\.([qkvo])_proj\.", r"layers.\1.attention.w\2."),
    (r"language_model\.model\.layers\.(\d+)\.input_layernorm\.", r"layers.\1.attention_norm."),
    (r"language_model\.model\.layers\.(\d+)\.post_attention_layernorm\.", r"layers.\1.ffn_norm."),
    (r"language_model\.model\.layers\.(\d+)\.mlp\.gate_proj\.", r"layers.\1.feed_forward.w1."),
    (r"language_model\.model\.layers\.(\d+)\.mlp\.down_proj\.", r"layers.\1.feed_forward.w2."),
    (r"language_model\.model\.layers\.(\d+)\.mlp\.up_proj\.", r"layers.\1.feed_forward.w3."),
    (r"audio_tower\.conv1\.", f"{_WHISPER}conv_layers.0."),
    (r"audio_tower\.conv2\.", f"{_WHISPER}conv_layers.1."),
    (r"audio_tower\.layer_norm\.", f"{_WHISPER}transformer.norm."),
    (
        r"audio_tower\.layers\.(\d+)\.self_attn\.([qkv])_proj\.",
        _WHISPER + r"transformer.layers.\1.attention.w\2.",
    ),
    (
        r"audio_tower\.layers\.(\d+)\.self_attn\.out_proj\.",
        _WHISPER + r"transformer.layers.\1.attention.wo.",
    ),
    (
        r"audio_tower\.layers\.(\d+)\.self_attn_layer_norm\.",
        _WHISPER + r"transformer.layers.\1.attention_norm.",
    ),
    (r"audio_tower\.layers\.(\d+)\.final_layer_norm\.", _WHISPER + r"transformer.layers.\1.ffn_norm."),
    (r"audio_tower\.layers\.(\d+)\.fc([12])\.", _WHISPER + r"transformer.layers.\1.feed_forward.w\2."),
    (r"multi_modal_projector\.linear_1\.", "mm_whisper_embeddings.audio_language_projection.0."),
    (r"multi_modal_projector\.linear_2\.", "mm_whisper_embeddings.audio_language_projection.2."),
)
_ROUNDING = {"fp32": 1e-3, "fp16": 1e-3, "bf16": 5e-3}
"""How far stored positions may be from sinusoids: Whisper's files have them rounded to fp16."""
_POSITIONS = "audio_tower.embed_positions.weight"
_ROTATED = re.compile(r"language_model\.model\.layers\.\d+\.self_attn\.([qk])_proj\.weight")


def _problems(trained: Trained) -> list[str]:
    found = VOXTRAL.problems(trained)
    if found:
        return found
    config, positions = trained.text.config, trained.encoder.model.embed_positions.weight
    if config.rope_parameters.get("rope_type", "default") != "default":
        found.append(f"the LLM's positions are scaled ({config.rope_parameters['rope_type']}), needs none")
    if config.attention_bias or config.mlp_bias:
        found.append("the LLM's layers have biases, needs none")
    limit = _ROUNDING[trained.recipe.encoder.dtype]
    if (positions.float() - _sinusoids(*positions.shape)).abs().max() > limit:
        found.append("the encoder's positions are no sinusoids, which are computed anew there")
    if trained.lora == "keep":
        found.append("--lora keep: the files have no place for updates (--lora merge fits)")
    return found


def _sinusoids(length: int, dim: int) -> Tensor:
    """Return Whisper's positions (length, dim): sines, then cosines."""
    rates = torch.exp(-math.log(10_000) / (dim // 2 - 1) * torch.arange(dim // 2))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _files(trained: Trained) -> Files:
    files = VOXTRAL.files(trained)
    text, sizes = files.config["text_config"], trained.model.encoder.sizes
    heads = {"q": text["num_attention_heads"], "k": text["num_key_value_heads"]}
    tensors = {}
    for name, value in files.tensors.items():
        if name == _POSITIONS:
            continue
        rotated = _ROTATED.fullmatch(name)
        tensors[_named(name)] = value if rotated is None else interleaved(value, heads[rotated[1]])
    if trained.is_tied:
        tensors["output.weight"] = tensors["mm_whisper_embeddings.tok_embeddings.weight"].clone()
    return replace(
        files,
        config=_params(text, sizes, trained.recipe.adapter.config.downsample),
        tensors=tensors,
        model_class=None,
        config_name="params.json",
        weights_name="consolidated",
    )


def _named(name: str) -> str:
    for pattern, ours in _NAMES:
        if found := re.match(pattern, name):
            return found.expand(ours) + name[found.end() :]
    raise AssertionError(f"{name} has no name in Mistral's files")


def interleaved(weight: Tensor, num_heads: int) -> Tensor:
    """Return the rows of a projection as rotary positions have them in pairs next to each other.

    Args:
        weight: (heads x width, D); the two halves of each head are what rotates together.
        num_heads: Heads.
    """
    rows, dim = weight.shape
    # (heads, 2, width / 2, D) -> (heads, width / 2, 2, D)
    pairs = weight.view(num_heads, 2, rows // num_heads // 2, dim).transpose(1, 2)
    return pairs.reshape(rows, dim).contiguous()


def _params(text: dict[str, Any], sizes: Any, downsample: int) -> dict[str, Any]:
    return {
        "dim": text["hidden_size"],
        "n_layers": text["num_hidden_layers"],
        "head_dim": text["head_dim"],
        "hidden_dim": text["intermediate_size"],
        "n_heads": text["num_attention_heads"],
        "n_kv_heads": text["num_key_value_heads"],
        "norm_eps": text["rms_norm_eps"],
        "rope_theta": text["rope_theta"],
        "vocab_size": text["vocab_size"],
        "max_position_embeddings": text["max_position_embeddings"],
        "multimodal": {
            "whisper_model_args": {
                "encoder_args": {
                    "dim": sizes.dim,
                    "n_layers": sizes.num_layers,
                    "head_dim": sizes.dim // sizes.num_heads,
                    "hidden_dim": sizes.ffn_dim,
                    "n_heads": sizes.num_heads,
                    "vocab_size": 51866,
                    "max_source_positions": sizes.num_positions,
                    "audio_encoding_args": {
                        "sampling_rate": 16_000,
                        "num_mel_bins": sizes.num_mels,
                        "hop_length": 160,
                        "window_size": 400,
                    },
                },
                "downsample_args": {"downsample_factor": downsample},
            }
        },
    }


VOXTRAL_MISTRAL = Format(TOKEN, _problems, _files, chat=False)
"""The shape of Voxtral, in Mistral's files."""
