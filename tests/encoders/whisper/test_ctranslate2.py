from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kikimimi import Padded, WeightsError, find_weights
from kikimimi_encoders.whisper.ctranslate2 import encoder_state, open_whisper
from kikimimi_encoders.whisper.whisper import Sizes, WhisperEncoder

SIZES = Sizes(dim=32, num_layers=2, num_heads=4, ffn_dim=48, num_mels=80)


def text(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def write(path: Path, tensors: dict[str, Tensor], specification: str = "WhisperSpec") -> str:
    data = struct.pack("<I", 6) + text(specification) + struct.pack("<II", 3, len(tensors))
    for name, value in tensors.items():
        type_id = {torch.float32: 0, torch.int16: 2}[value.dtype]
        raw = value.contiguous().numpy().tobytes()
        data += text(name) + struct.pack(f"<B{value.dim()}I", value.dim(), *value.shape)
        data += struct.pack("<BI", type_id, len(raw)) + raw
    path.mkdir()
    (path / "model.bin").write_bytes(data + struct.pack("<I", 0))
    return str(path)


def converted(encoder: WhisperEncoder) -> dict[str, Tensor]:
    """Name and fuse an encoder's tensors as CTranslate2's converter does."""
    state = {name: value.detach() for name, value in encoder.model.state_dict().items()}
    out = {"encoder/num_heads": torch.tensor(SIZES.num_heads, dtype=torch.int16)}
    for name in ("conv1", "conv2"):
        out |= {f"encoder/{name}/{kind}": state[f"{name}.{kind}"] for kind in ("weight", "bias")}
    out["encoder/position_encodings/encodings"] = state["embed_positions.weight"]
    norms = {"encoder/layer_norm": "layer_norm"}
    for i in range(SIZES.num_layers):
        ours, theirs = f"layers.{i}", f"encoder/layer_{i}"
        attention = f"{theirs}/self_attention"
        norms |= {
            f"{attention}/layer_norm": f"{ours}.self_attn_layer_norm",
            f"{theirs}/ffn/layer_norm": f"{ours}.final_layer_norm",
        }
        q, k, v = (state[f"{ours}.self_attn.{name}_proj.weight"] for name in "qkv")
        q_bias, v_bias = (state[f"{ours}.self_attn.{name}_proj.bias"] for name in "qv")
        out[f"{attention}/linear_0/weight"] = torch.cat([q, k, v])
        out[f"{attention}/linear_0/bias"] = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
        for kind in ("weight", "bias"):
            out[f"{attention}/linear_1/{kind}"] = state[f"{ours}.self_attn.out_proj.{kind}"]
            out[f"{theirs}/ffn/linear_0/{kind}"] = state[f"{ours}.fc1.{kind}"]
            out[f"{theirs}/ffn/linear_1/{kind}"] = state[f"{ours}.fc2.{kind}"]
    for theirs, ours in norms.items():
        out |= {f"{theirs}/gamma": state[f"{ours}.weight"], f"{theirs}/beta": state[f"{ours}.bias"]}
    return out


def build(weights: str, sizes: Sizes | None = None) -> WhisperEncoder:
    torch.manual_seed(0)
    return WhisperEncoder(WhisperEncoder.Config(weights=weights, sizes=sizes)).eval()


def test_a_converted_encoder_is_the_same(tmp_path: Path) -> None:
    source = build("random", SIZES)
    loaded = build(write(tmp_path / "w", converted(source)))
    assert loaded.sizes == SIZES
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.zero_()
    loaded.load_weights()
    audio = Padded.stack([torch.randn(4000), torch.randn(9000)])
    with torch.inference_mode():
        torch.testing.assert_close(loaded(audio).values, source(audio).values, rtol=0, atol=0)


def test_another_specification_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a CTranslate2 'TransformerSpec', not a 'WhisperSpec'"):
        build(write(tmp_path / "w", {"a": torch.zeros(1)}, "TransformerSpec"))


def test_a_bias_of_the_keys_is_not_dropped_silently(tmp_path: Path) -> None:
    tensors = converted(build("random", SIZES))
    tensors["encoder/layer_0/self_attention/linear_0/bias"] = torch.ones(3 * SIZES.dim)
    files = find_weights(write(tmp_path / "w", tensors))
    assert files is not None
    with pytest.raises(
        WeightsError, match="'encoder/layer_0/self_attention/linear_0/bias' holds a bias of the keys"
    ):
        encoder_state(open_whisper(files))
