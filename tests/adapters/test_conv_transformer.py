from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from kikimimi import AdapterContext, Padded
from kikimimi.testing import Check, parametrize_checks
from kikimimi_adapters.conv_transformer import (
    ConvTransformerAdapter,
    TransformerLayer,
    rotate,
    sinusoids,
)

Config = ConvTransformerAdapter.Config
SLM: dict[str, Any] = {
    "strides": [2, 2],
    "num_layers": 2,
    "position": "none",
    "activation": "gelu",
    "dim": 2240,
    "num_heads": 35,
    "ffn_dim": 8960,
}


@parametrize_checks(
    ConvTransformerAdapter,
    llama3=Config(),
    slm=Config(**SLM),
    sinusoidal=Config(position="sinusoidal", activation="relu", dropout=0.1, kernel_size=5),
)
def test_contract(check: Check) -> None:
    check()


def build(in_dim: int = 6, out_dim: int = 10, **options: Any) -> ConvTransformerAdapter:
    torch.manual_seed(0)
    context = AdapterContext(in_dim=in_dim, out_dim=out_dim, frame_rate=25.0)
    sizes = {"dim": 16, "num_heads": 4, "ffn_dim": 24}
    return ConvTransformerAdapter(Config(**{**sizes, **options}), context).eval()


def test_rotation_equals_llamas() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, head_dim=8)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    query, key = torch.randn(2, 2, 4, 300, 8)
    cosines, sines = LlamaRotaryEmbedding(config)(query, torch.arange(300)[None])
    expected = apply_rotary_pos_emb(query, key, cosines, sines)
    torch.testing.assert_close(rotate(query), expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(rotate(key), expected[1], rtol=0, atol=1e-5)


def test_rotation_by_hand() -> None:
    """One pair: position p is turned by p radians."""
    turned = rotate(torch.tensor([1.0, 0.0]).expand(1, 1, 3, 2))[0, 0]
    angles = torch.arange(3.0)
    torch.testing.assert_close(turned, torch.stack([angles.cos(), angles.sin()], dim=1))


def test_sinusoids_by_hand() -> None:
    first, second = sinusoids(2, 4, torch.device("cpu")).tolist()
    assert first == [0.0, 0.0, 1.0, 1.0]
    assert second == pytest.approx([0.841471, 0.0001, 0.540302, 1.0], abs=1e-6)


def torchs_layer(layer: TransformerLayer, activation: Any) -> nn.TransformerEncoderLayer:
    """PyTorch's own layer with the same weights."""
    dim, ffn_dim = layer.ffn.up_proj.in_features, layer.ffn.up_proj.out_features
    other = nn.TransformerEncoderLayer(
        dim,
        layer.attention.num_heads,
        ffn_dim,
        dropout=0.0,
        activation=activation,
        batch_first=True,
        norm_first=True,
    )
    attention = layer.attention
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    state: dict[str, Any] = {
        "self_attn.in_proj_weight": torch.cat([part.weight for part in parts]),
        "self_attn.in_proj_bias": torch.cat([part.bias for part in parts]),
    }
    names = {
        "self_attn.out_proj": attention.o_proj,
        "linear1": layer.ffn.up_proj,
        "linear2": layer.ffn.down_proj,
        "norm1": layer.attention_norm,
        "norm2": layer.ffn_norm,
    }
    for name, module in names.items():
        state |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    other.load_state_dict(state)
    return other.eval()


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_equals_torchs_convolutions_and_layers(activation: str) -> None:
    adapter = build(strides=[2, 2], num_layers=2, activation=activation, position="none")
    clips = [torch.randn(length, 6) for length in (21, 8, 1)]
    convs = [module for module in adapter.modules() if isinstance(module, nn.Conv1d)]
    layers = [m for m in adapter.modules() if isinstance(m, TransformerLayer)]
    out = adapter(Padded.stack(clips)).tokens
    assert out.lengths.tolist() == [6, 2, 1]
    with torch.no_grad():
        for clip, tokens in zip(clips, out.unstack(), strict=True):
            hidden = clip.T[None]
            for conv in convs:
                hidden = nn.functional.gelu(nn.functional.conv1d(hidden, conv.weight, conv.bias, 2, 1))
            hidden = hidden.transpose(1, 2)
            for layer in layers:
                hidden = torchs_layer(layer, activation)(hidden)
            expected = adapter.linear(adapter.norm(hidden))[0]
            torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-5)


def attention_by_hand(layer: TransformerLayer, frames: Tensor, *, turned: bool) -> Tensor:
    attention = layer.attention
    query, key, value = (
        proj(frames).view(len(frames), attention.num_heads, -1).transpose(0, 1)
        for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if turned:
        query, key = rotate(query[None])[0], rotate(key[None])[0]
    shares = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1)
    out: Tensor = attention.o_proj((shares @ value).transpose(0, 1).flatten(1))
    return out


def test_a_rotary_swiglu_layer_by_hand() -> None:
    adapter = build(strides=[1], kernel_size=1)
    (layer,) = (m for m in adapter.modules() if isinstance(m, TransformerLayer))
    frames = torch.randn(9, 16)
    mixed = frames + attention_by_hand(layer, layer.attention_norm(frames), turned=True)
    normed = layer.ffn_norm(mixed)
    assert layer.ffn.gate_proj is not None
    gate = layer.ffn.gate_proj(normed)
    expected = mixed + layer.ffn.down_proj(gate * gate.sigmoid() * layer.ffn.up_proj(normed))
    out = layer(frames[None], torch.ones(1, 9, dtype=torch.bool), rotary=True)[0]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("position", "knows"), [("none", False), ("rotary", True), ("sinusoidal", True)])
def test_only_positions_tell_the_order(position: str, knows: bool) -> None:
    """Without them, reversing the frames (each convolution sees one) reverses the tokens."""
    adapter = build(strides=[1], kernel_size=1, position=position)
    frames = torch.randn(7, 6)
    forward = adapter(Padded.stack([frames])).tokens.values[0]
    backward = adapter(Padded.stack([frames.flip(0)])).tokens.values[0].flip(0)
    assert torch.allclose(forward, backward, atol=1e-5) is not knows


def test_attention_looks_in_both_directions() -> None:
    adapter = build(strides=[1], kernel_size=1)
    frames = torch.randn(5, 6, requires_grad=True)
    adapter(Padded.stack([frames])).tokens.values[0, 2].sum().backward()
    assert frames.grad is not None
    assert frames.grad.abs().sum(1).gt(0).all()


def test_dropout_acts_in_training_only() -> None:
    adapter = build(dropout=0.5)
    batch = Padded.stack([torch.randn(20, 6)])
    first = adapter(batch).tokens.values
    assert torch.equal(adapter(batch).tokens.values, first)
    adapter.train()
    assert not torch.equal(adapter(batch).tokens.values, adapter(batch).tokens.values)


@pytest.mark.parametrize(
    ("in_dim", "out_dim", "options", "count"),
    [
        # Llama 3 8B: "about 100 M" (arXiv 2407.21783, section 8); with GELU instead of SwiGLU, 89.7 M.
        (1536, 4096, {}, 102.3),
        (1536, 4096, {"activation": "gelu"}, 89.7),
        # SLM: 156 M (arXiv 2310.00230).
        (1536, 4096, SLM, 155.0),
    ],
)
def test_sizes(in_dim: int, out_dim: int, options: dict[str, Any], count: float) -> None:
    with torch.device("meta"):
        adapter = ConvTransformerAdapter(
            Config(**options), AdapterContext(in_dim=in_dim, out_dim=out_dim, frame_rate=25.0)
        )
    found = sum(parameter.numel() for parameter in adapter.parameters())
    assert round(found / 1e6, 1) == count


def test_tiny_config_keeps_the_structure() -> None:
    config = Config(strides=[2, 1], num_layers=6, position="sinusoidal", activation="relu", dropout=0.1)
    tiny = ConvTransformerAdapter.tiny_config(config)
    assert tiny == Config(
        strides=[2, 1],
        num_layers=2,
        position="sinusoidal",
        activation="relu",
        dropout=0.1,
        dim=32,
        num_heads=2,
        ffn_dim=64,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 0}, "kernel_size: must be at least 1, not 0"),
        ({"num_layers": 0}, "num_layers: must be at least 1, not 0"),
        ({"strides": []}, "strides: must not be empty"),
        ({"strides": [4]}, "a stride of 4 with a kernel of 3 .* leaves frames unread"),
        ({"num_heads": 5}, r"num_heads \(5\) must divide dim \(3072\)"),
        ({"activation": "silu"}, "activation: 'silu' is not one of"),
        ({"position": "learned"}, "position: 'learned' is not one of"),
        ({"dim": 9, "num_heads": 3}, "dim / num_heads must be even with position: rotary, not 3"),
        (
            {"dim": 9, "num_heads": 3, "position": "sinusoidal"},
            "dim must be even and at least 4 with position: sinusoidal, not 9",
        ),
        ({"dropout": 1.0}, "dropout: must be at least 0 and below 1, not 1.0"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options)
