from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio.compliance.kaldi as kaldi
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import WavLMConfig
from transformers.models.wavlm.modeling_wavlm import WavLMAttention, WavLMPositionalConvEmbedding

from kikimimi import Padded, WeightsError
from kikimimi.testing import Check, parametrize_checks
from kikimimi_encoders.beats.beats import BEATsEncoder
from kikimimi_encoders.beats.model import (
    BEATsAttention,
    BEATsLayer,
    BEATsPositionalConvolution,
    Sizes,
    position_buckets,
)

Config = BEATsEncoder.Config


@parametrize_checks(
    BEATsEncoder,
    expected_failures={"dropping-frame_rate_is_true": "up to 8 frames are left out, as in the reference"},
    dropping=Config(remainder="drop", layers=[12]),
    several=Config(layers=[0, 6, 12]),
    summed=Config(layers=[3, 7], combine="weighted_sum"),
    first=Config(layers=[0]),
)
def test_contract(check: Check) -> None:
    check()


def noise(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1


def tiny_sizes() -> Sizes:
    sizes: Any = BEATsEncoder.tiny_config()
    found: Sizes = sizes.sizes
    return found


def tiny(**options: Any) -> BEATsEncoder:
    torch.manual_seed(0)
    encoder = BEATsEncoder(Config(sizes=tiny_sizes(), **options)).eval()
    with torch.no_grad():
        # New gates and biases would hide what they do.
        for name, parameter in encoder.named_parameters():
            if "grep" in name or "bias" in name:
                parameter.add_(torch.randn_like(parameter) * 0.5)
    return encoder


def reference_attention(attention: BEATsAttention, patches: Tensor, bias: Tensor) -> Tensor:
    """One clip (F, E), head by head, with the reference's division by 32."""
    width = patches.shape[-1] // attention.num_heads
    query, key, value = (proj(patches) for proj in (attention.q_proj, attention.k_proj, attention.v_proj))
    heads = []
    for head in range(attention.num_heads):
        own = slice(head * width, (head + 1) * width)
        scores = (query[:, own] / width**0.5 / 32) @ key[:, own].T
        scores = (scores - scores.max(-1, keepdim=True).values) * 32
        eight = attention.grep_linear(query[:, own])
        first, second = eight[:, :4].sum(-1).sigmoid(), eight[:, 4:].sum(-1).sigmoid()
        gate = first * (second * attention.grep_a[0, head, 0, 0] - 1) + 2
        heads.append((scores + gate[:, None] * bias[head]).softmax(-1) @ value[:, own])
    out: Tensor = attention.out_proj(torch.cat(heads, dim=-1))
    return out


def reference(encoder: BEATsEncoder, mel: Tensor) -> list[Tensor]:
    """All layers of one clip of (mel frames, 128), spelt out after the paper and `backbone.py`."""
    model, sizes = encoder.model, encoder.sizes
    rows = len(mel) // 16
    # (rows, 8, 16 x 16)
    patches = mel[: rows * 16].view(rows, 16, 8, 16).permute(0, 2, 1, 3).reshape(rows * 8, 256)
    patches = patches @ model.patch_embedding.weight.view(sizes.patch_dim, 256).T
    hidden = model.post_extract_proj(model.layer_norm(patches))
    conv: Any = model.encoder.pos_conv[0]
    kernel = conv.weight_v * conv.weight_g / conv.weight_v.square().sum((0, 1), keepdim=True).sqrt()
    surroundings = nn.functional.conv1d(
        hidden.T[None], kernel, conv.bias, padding=sizes.conv_pos // 2, groups=sizes.conv_pos_groups
    )[0, :, :-1]
    hidden = model.encoder.layer_norm(hidden + nn.functional.gelu(surroundings.T))
    positions = torch.arange(len(hidden))
    buckets = position_buckets(positions[None] - positions[:, None], sizes.num_buckets, sizes.max_distance)
    layers: Any = model.encoder.layers
    bias = layers[0].self_attn.relative_attention_bias.weight[buckets].permute(2, 0, 1)
    alpha = (2 * sizes.num_layers) ** 0.25
    outputs = [hidden]
    for layer in layers:
        hidden = layer.self_attn_layer_norm(
            hidden * alpha + reference_attention(layer.self_attn, hidden, bias)
        )
        hidden = layer.final_layer_norm(hidden * alpha + layer.fc2(nn.functional.gelu(layer.fc1(hidden))))
        outputs.append(hidden)
    return outputs


def reference_mel(wave: Tensor) -> Tensor:
    mel: Tensor = kaldi.fbank(
        wave[None] * 2**15, num_mel_bins=128, sample_frequency=16000, frame_length=25, frame_shift=10
    )
    return (mel - 15.41663) / (2 * 6.55582)


def test_equals_the_reference_on_clips_of_unequal_lengths() -> None:
    encoder = tiny(layers=[0, 1, 2], remainder="drop")
    clips = [noise(length) for length in (16_000, 40_000, 2_800, 7_123)]
    with torch.no_grad():
        out = encoder(Padded.stack(clips))
        assert out.lengths.tolist() == [48, 120, 8, 16]
        for clip, frames in zip(clips, out.unstack(), strict=True):
            expected = torch.cat(reference(encoder, reference_mel(clip)), dim=-1)
            torch.testing.assert_close(frames, expected, rtol=0, atol=1e-5)


def test_pad_fills_the_last_row_with_silence() -> None:
    encoder = tiny()
    clip = noise(7_123)
    # 43 mel frames: three rows of 16, 400 + 47 x 160 samples.
    padded = nn.functional.pad(clip, (0, 400 + 47 * 160 - len(clip)))
    with torch.no_grad():
        out = encoder(Padded.stack([clip]))
        expected = reference(encoder, reference_mel(padded))[-1]
    assert out.lengths.tolist() == [24]
    torch.testing.assert_close(out.values[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("remainder", ["pad", "drop"])
@pytest.mark.parametrize("length", [1, 399, 400, 2_799])
def test_a_clip_below_one_row_is_filled_with_silence(length: int, remainder: str) -> None:
    encoder = tiny(remainder=remainder)
    clip = noise(length)
    with torch.no_grad():
        out = encoder(Padded.stack([clip]))
        expected = reference(encoder, reference_mel(nn.functional.pad(clip, (0, 2_800 - length))))[-1]
    assert out.lengths.tolist() == [8]
    torch.testing.assert_close(out.values[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("num_samples", "padded", "dropped"),
    [
        (1, 8, 8),
        (400, 8, 8),
        (2_799, 8, 8),
        (2_800, 8, 8),
        (2_959, 8, 8),
        (2_960, 16, 8),
        (5_359, 16, 8),
        (5_360, 16, 16),
        (160_000, 504, 496),
        (480_000, 1504, 1496),
    ],
)
def test_num_frames(num_samples: int, padded: int, dropped: int) -> None:
    assert tiny().num_frames(num_samples) == padded
    assert tiny(remainder="drop").num_frames(num_samples) == dropped


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(320, 800), (32, 80), (8, 100)])
def test_buckets_equal_wavlms(num_buckets: int, max_distance: int) -> None:
    wavlm = WavLMAttention(8, 2, num_buckets=num_buckets, max_distance=max_distance)
    distances = torch.arange(-2_000, 2_001)
    expected = wavlm._relative_positions_bucket(distances)
    assert torch.equal(position_buckets(distances, num_buckets, max_distance), expected)


def test_buckets_by_hand() -> None:
    """8 buckets up to 16: 0, 1 alone, then 2 to 5 and 6 on; keys that come later 4 further."""
    buckets = position_buckets(torch.tensor([0, -1, -2, -5, -6, -100, 1, 2, 100]), 8, 16)
    assert buckets.tolist() == [0, 1, 2, 2, 3, 3, 5, 6, 7]


def test_attention_equals_wavlms_where_the_query_is_the_input() -> None:
    """WavLM's gate reads the layer's input, and BEATs' the projected query."""
    torch.manual_seed(0)
    wavlm = WavLMAttention(12, 3, num_buckets=32, max_distance=40).eval()
    attention = BEATsAttention(12, 3, num_buckets=32).eval()
    with torch.no_grad():
        wavlm.q_proj.weight.copy_(torch.eye(12))
        wavlm.q_proj.bias.zero_()
        wavlm.gru_rel_pos_const.normal_()
        wavlm.rel_attn_embed.weight.normal_()
    names = {
        "gru_rel_pos_const": "grep_a",
        "gru_rel_pos_linear.weight": "grep_linear.weight",
        "gru_rel_pos_linear.bias": "grep_linear.bias",
        "rel_attn_embed.weight": "relative_attention_bias.weight",
    }
    attention.load_state_dict({names.get(name, name): value for name, value in wavlm.state_dict().items()})
    lengths = [50, 9, 1]
    clips = Padded.stack([torch.randn(length, 12) for length in lengths])
    distances = torch.arange(50)[None] - torch.arange(50)[:, None]
    with torch.no_grad():
        bias = attention.position_bias(position_buckets(distances, 32, 40))
        out = attention(clips.values, bias, clips.mask())
        for i, length in enumerate(lengths):
            expected = wavlm(clips.values[i : i + 1, :length])[0]
            torch.testing.assert_close(out[i : i + 1, :length], expected, rtol=0, atol=1e-5)


def test_positions_equal_torchs_weight_norm_and_wavlms() -> None:
    torch.manual_seed(0)
    ours = BEATsPositionalConvolution(12, 8, 3)
    with torch.no_grad():
        ours.weight_g.normal_()
        ours.bias.normal_()
    config = WavLMConfig(hidden_size=12, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=3)
    wavlm: Any = WavLMPositionalConvEmbedding(config)
    with torch.no_grad():
        wavlm.conv.parametrizations.weight.original0.copy_(ours.weight_g)
        wavlm.conv.parametrizations.weight.original1.copy_(ours.weight_v)
        wavlm.conv.bias.copy_(ours.bias)
        patches = torch.randn(2, 21, 12)
        torch.testing.assert_close(ours(patches), wavlm(patches), rtol=0, atol=1e-5)
        plain: Any = nn.utils.parametrizations.weight_norm(nn.Conv1d(12, 12, 8, padding=4, groups=3), dim=2)
        plain.parametrizations.weight.original0.copy_(ours.weight_g)
        plain.parametrizations.weight.original1.copy_(ours.weight_v)
        plain.bias.copy_(ours.bias)
        expected = nn.functional.gelu(plain(patches.transpose(1, 2))[..., :-1]).transpose(1, 2)
        torch.testing.assert_close(ours(patches), expected, rtol=0, atol=1e-5)


def test_a_new_kernel_is_not_scaled() -> None:
    fresh = BEATsPositionalConvolution(12, 8, 3)
    torch.testing.assert_close(fresh.weight_g[0, 0], fresh.weight_v.square().sum((0, 1)).sqrt())


def test_a_layer_is_post_norm_with_a_scaled_residual() -> None:
    torch.manual_seed(0)
    layer = BEATsLayer(8, 2, 16, 32, residual_scale=24**0.25)
    patches, buckets = torch.randn(5, 8), torch.randint(32, (5, 5))
    with torch.no_grad():
        out, bias = layer(patches[None], torch.ones(1, 5, dtype=torch.bool), buckets, None)
        attended = reference_attention(layer.self_attn, patches, bias)
        hidden = nn.functional.layer_norm(patches * 24**0.25 + attended, (8,))
        expected = nn.functional.layer_norm(
            hidden * 24**0.25 + layer.fc2(nn.functional.gelu(layer.fc1(hidden))), (8,)
        )
    torch.testing.assert_close(out[0], expected, rtol=0, atol=1e-5)


def test_the_published_sizes_and_names() -> None:
    with torch.device("meta"):
        encoder = BEATsEncoder(Config())
    shapes = {name: list(value.shape) for name, value in encoder.model.state_dict().items()}
    # 90 M (Chen et al. 2022, section 4.2).
    assert sum(p.numel() for p in encoder.parameters()) == 90_311_792
    assert len(shapes) == 1 + 2 + 2 + 3 + 2 + 12 * (8 + 2 + 1 + 4 + 4) + 1
    assert shapes["patch_embedding.weight"] == [512, 1, 16, 16]
    assert shapes["post_extract_proj.weight"] == [768, 512]
    assert shapes["layer_norm.weight"] == [512]
    assert shapes["encoder.pos_conv.0.weight_g"] == [1, 1, 128]
    assert shapes["encoder.pos_conv.0.weight_v"] == [768, 48, 128]
    assert shapes["encoder.pos_conv.0.bias"] == [768]
    assert shapes["encoder.layer_norm.weight"] == [768]
    first = {n.removeprefix("encoder.layers.0."): s for n, s in shapes.items() if ".layers.0." in n}
    assert first["self_attn.grep_a"] == [1, 12, 1, 1]
    assert first["self_attn.grep_linear.weight"] == [8, 64]
    assert first["self_attn.relative_attention_bias.weight"] == [320, 12]
    assert first["fc1.weight"] == [3072, 768]
    assert {name.rpartition(".")[0] for name in first} == {
        *(f"self_attn.{name}_proj" for name in ("k", "v", "q", "out")),
        "self_attn",
        "self_attn.grep_linear",
        "self_attn.relative_attention_bias",
        "self_attn_layer_norm",
        "fc1",
        "fc2",
        "final_layer_norm",
    }
    assert (encoder.dim, encoder.frame_rate, encoder.max_seconds) == (768, 50.0, None)


def test_only_the_layers_that_are_read_are_built() -> None:
    encoder = tiny(layers=[0, 1])
    assert len(encoder.model.encoder.layers) == 1
    assert (encoder.dim, encoder.num_concat_layers) == (64, 2)
    assert tiny(layers=[1, 2], combine="weighted_sum").dim == 32


def test_tiny_config_keeps_the_options() -> None:
    config = Config(weights="somewhere", remainder="drop", layers=[3, 12], combine="weighted_sum")
    assert BEATsEncoder.tiny_config(config) == Config(
        remainder="drop", layers=[1, 2], combine="weighted_sum", sizes=tiny_sizes()
    )
    assert BEATsEncoder.tiny_config(Config(layers=[2])).layers == [2]


CHECKPOINT_CFG: dict[str, Any] = {
    # What the published checkpoints' `cfg` holds besides the sizes.
    "model_type": "beats",
    "input_patch_size": 16,
    "conv_bias": False,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "dropout": 0.0,
    "encoder_layerdrop": 0.05,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "finetuned_model": True,
    "predictor_class": 527,
}


def write_checkpoint(folder: Path, source: BEATsEncoder, **changes: Any) -> None:
    sizes = asdict(source.sizes)
    names = {"dim": "encoder_embed_dim", "num_layers": "encoder_layers", "patch_dim": "embed_dim"}
    names |= {"num_heads": "encoder_attention_heads", "ffn_dim": "encoder_ffn_embed_dim"}
    config = {**CHECKPOINT_CFG, **{names.get(name, name): value for name, value in sizes.items()}, **changes}
    folder.mkdir()
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    state = {name: value.clone() for name, value in source.model.state_dict().items()}
    bias = state["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    # A checkpoint names the shared table once in each layer, and holds a classifier if it is fine-tuned.
    state["encoder.layers.1.self_attn.relative_attention_bias.weight"] = bias.clone()
    state["predictor.weight"] = torch.zeros(527, source.dim)
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize("layers", [None, [0, 1], [0]])
def test_loads_a_converted_checkpoint(tmp_path: Path, layers: list[int] | None) -> None:
    source = tiny(layers=[0, 1, 2])
    write_checkpoint(tmp_path / "beats", source)
    encoder = BEATsEncoder(Config(weights=str(tmp_path / "beats"), layers=layers)).eval()
    encoder.load_weights()
    assert encoder.sizes == source.sizes
    clip = Padded.stack([noise(9_000)])
    with torch.no_grad():
        expected = source(clip).values.unflatten(-1, (3, -1))[..., [2] if layers is None else layers, :]
        torch.testing.assert_close(encoder(clip).values, expected.flatten(2), rtol=0, atol=1e-6)
    assert encoder.pretrained_names() == {name for name, _ in encoder.named_parameters()}


def test_the_weights_of_the_sum_are_new(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "beats", tiny())
    config = Config(weights=str(tmp_path / "beats"), layers=[1, 2], combine="weighted_sum")
    encoder = BEATsEncoder(config)
    names = {name for name, _ in encoder.named_parameters()}
    assert encoder.pretrained_names() == names - {"taps.weight"}
    assert "taps.weight" in names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "wavlm"}, "is a 'wavlm' model; encoder 'beats' takes 'beats'"),
        ({"deep_norm": False}, "config.json: deep_norm is False, and encoder 'beats' takes only True"),
        ({"input_patch_size": 8}, "input_patch_size is 8, and encoder 'beats' takes only 16"),
        ({"gru_rel_pos": None}, "config.json lacks 'gru_rel_pos'"),
        ({"max_distance": None}, "config.json lacks 'max_distance'"),
        ({"encoder_attention_heads": 5}, r"config.json: sizes.num_heads \(5\) must divide sizes.dim \(32\)"),
    ],
)
def test_refuses_other_models(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_checkpoint(tmp_path / "beats", tiny(), **changes)
    with pytest.raises(WeightsError, match=message):
        BEATsEncoder(Config(weights=str(tmp_path / "beats")))


def test_says_what_is_missing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "beats", tiny(), encoder_layers=3)
    encoder = BEATsEncoder(Config(weights=str(tmp_path / "beats")))
    with pytest.raises(WeightsError, match=r"does not fit BEATsModel .* 19 missing: encoder\.layers\.2\."):
        encoder.load_weights()


def test_refuses_biases_that_differ_between_layers(tmp_path: Path) -> None:
    source = tiny()
    write_checkpoint(tmp_path / "beats", source)
    state = {name: value.clone() for name, value in source.model.state_dict().items()}
    state["encoder.layers.1.self_attn.relative_attention_bias.weight"] = torch.zeros(32, 2)
    save_file(state, tmp_path / "beats" / "model.safetensors")
    encoder = BEATsEncoder(Config(weights=str(tmp_path / "beats")))
    with pytest.raises(WeightsError, match=r"layers\.1\..* differs from the first layer's"):
        encoder.load_weights()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remainder": "cut"}, "remainder: 'cut' is not one of drop, pad"),
        ({"layers": []}, "layers: must not be empty"),
        ({"layers": [2], "combine": "weighted_sum"}, "combine is read only with two or more layers"),
        ({"weights": "beats", "sizes": Sizes()}, "sizes is read only with weights: random, not with 'beats'"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_refuses_a_layer_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="layers names layer 3, and the encoder has 2"):
        tiny(layers=[3])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"conv_pos": 0}, "conv_pos: must be at least 1, not 0"),
        ({"num_heads": 7}, r"sizes.num_heads \(7\) must divide sizes.dim \(768\)"),
        ({"conv_pos_groups": 5}, r"sizes.conv_pos_groups \(5\) must divide sizes.dim \(768\)"),
        ({"patch_dim": 768}, r"sizes.patch_dim must differ from sizes.dim \(768\)"),
        ({"num_buckets": 6}, "num_buckets: must be at least 4 and a multiple of 4, not 6"),
        ({"max_distance": 80}, r"sizes.max_distance must be above sizes.num_buckets / 4 \(80\), not 80"),
    ],
)
def test_refuses_sizes(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sizes(**sizes)
