from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kikimimi import AdapterContext, Padded
from kikimimi.testing import Check, parametrize_checks
from kikimimi_adapters.conv import ConvAdapter, ConvLayer

Config = ConvAdapter.Config
WAVPROMPT = {
    "kernel_sizes": [8],
    "strides": [8],
    "padding": "fill",
    "norm": "none",
    "hidden_dim": 768,
    "linear": True,
}
BLSP = {
    "kernel_sizes": [5, 5, 5],
    "strides": [2, 2, 2],
    "activation": "glu",
    "hidden_dim": 768,
    "bottleneck_dim": 512,
    "norm": "last",
}


@parametrize_checks(
    ConvAdapter,
    speechverse=Config(),
    slow=Config(strides=[2, 1], activation="gelu", bias=False),
    wavprompt=Config(**WAVPROMPT),  # type: ignore[arg-type]
    blsp=Config(**BLSP),  # type: ignore[arg-type]
    even=Config(kernel_sizes=[4, 2], strides=[2, 2], activation="relu", hidden_dim=64, norm="none"),
    overlapping=Config(kernel_sizes=[5, 1], strides=[3, 1], padding="fill"),
)
def test_contract(check: Check) -> None:
    check()


def build(in_dim: int = 1, out_dim: int = 1, **options: Any) -> ConvAdapter:
    torch.manual_seed(0)
    context = AdapterContext(in_dim=in_dim, out_dim=out_dim, frame_rate=50.0)
    return ConvAdapter(Config(**options), context)


def convolutions(adapter: ConvAdapter) -> list[nn.Conv1d]:
    return [module for module in adapter.modules() if isinstance(module, nn.Conv1d)]


def set_weights(adapter: ConvAdapter, weights: list[list[float]]) -> None:
    with torch.no_grad():
        for conv, weight in zip(convolutions(adapter), weights, strict=True):
            conv.weight.copy_(torch.tensor(weight).view(conv.weight.shape))


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None]


def test_two_convolutions_by_hand() -> None:
    adapter = build(norm="none", bias=False)
    set_weights(adapter, [[1.0, 10.0, 100.0], [1.0, 1.0, 1.0]])
    out = adapter(Padded.stack([column(1, 2, 3, 4, 5), column(1, 2)])).tokens
    # 0 1 2 | 2 3 4 | 4 5 0 -> 210, 432, 54; 0 210 432 | 432 54 0 -> 642, 486
    # 0 1 2 -> 210; 0 210 0 -> 210
    assert out.lengths.tolist() == [2, 1]
    assert out.values[0, :, 0].tolist() == [642.0, 486.0]
    assert out.values[1, 0, 0].item() == 210.0


def test_a_clip_meets_zeros_between_the_layers_not_the_bias() -> None:
    adapter = build(norm="none", strides=[1, 1])
    set_weights(adapter, [[0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    with torch.no_grad():
        for conv in convolutions(adapter):
            assert conv.bias is not None
            conv.bias.fill_(10.0)
    out = adapter(Padded.stack([column(1, 1, 1, 1), column(1, 1)])).tokens.values[..., 0]
    assert out[0].tolist() == [32.0, 43.0, 43.0, 32.0]
    # The third position of the first layer would be the bias, 10.
    assert out[1, :2].tolist() == [32.0, 32.0]


def test_fill_sees_every_frame_once_with_equal_kernel_and_stride() -> None:
    adapter = build(kernel_sizes=[4], strides=[4], padding="fill", norm="none", bias=False)
    set_weights(adapter, [[1.0, 10.0, 100.0, 1000.0]])
    out = adapter(Padded.stack([column(1, 2, 3, 4, 5, 6), column(1, 2, 3)])).tokens
    assert out.lengths.tolist() == [2, 1]
    assert out.values[0, :, 0].tolist() == [4321.0, 65.0]
    assert out.values[1, 0, 0].item() == 321.0


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 50, 1500])
@pytest.mark.parametrize(
    ("options", "product"),
    [
        ({}, 4),
        ({"strides": [2, 1]}, 2),
        ({"kernel_sizes": [5, 5, 5], "strides": [2, 2, 2]}, 8),
        ({"kernel_sizes": [4], "strides": [2]}, 2),
    ],
)
def test_half_padding_equals_torchs_convolutions(
    num_frames: int, options: dict[str, Any], product: int
) -> None:
    adapter = build(6, 5, norm="none", activation="gelu", **options)
    frames = torch.randn(num_frames, 6)
    expected = frames.T[None]
    for conv in convolutions(adapter):
        padding = conv.kernel_size[0] // 2
        expected = nn.functional.conv1d(expected, conv.weight, conv.bias, conv.stride, padding)
        expected = nn.functional.gelu(expected)
    out = adapter(Padded.stack([frames])).tokens
    assert out.lengths.tolist() == [adapter.max_tokens(num_frames)] == [expected.shape[-1]]
    torch.testing.assert_close(out.values[0], expected[0].T, rtol=0, atol=1e-5)
    if product == 4:
        assert adapter.max_tokens(num_frames) == -(-num_frames // 4)


def test_the_dropped_remainder_aside_fill_is_wavprompts_reduction() -> None:
    adapter = build(
        16, 12, kernel_sizes=[8], strides=[8], padding="fill", norm="none", hidden_dim=16, linear=True
    )
    reduce_t, proj = convolutions(adapter)[0], adapter.linear
    assert proj is not None
    frames = torch.randn(27, 16)
    expected = proj(
        nn.functional.conv1d(frames.T[None], reduce_t.weight, reduce_t.bias, stride=8).transpose(1, 2)
    )
    out = adapter(Padded.stack([frames])).tokens
    assert expected.shape[1] == 3
    assert out.lengths.tolist() == [4]
    torch.testing.assert_close(out.values[:, :3], expected, rtol=0, atol=1e-5)


def test_blsps_order_convolutions_bottleneck_norm() -> None:
    adapter = build(6, 8, **{**BLSP, "hidden_dim": 6, "bottleneck_dim": 3})
    assert [(c.in_channels, c.out_channels) for c in convolutions(adapter)] == [(6, 12), (6, 12), (6, 16)]
    assert adapter.bottleneck is not None
    assert adapter.norm is not None
    frames = torch.randn(33, 6)
    hidden = frames.T[None]
    for conv in convolutions(adapter):
        hidden = nn.functional.glu(nn.functional.conv1d(hidden, conv.weight, conv.bias, 2, 2), dim=1)
    hidden = hidden[0].T
    narrow = nn.functional.gelu(hidden @ adapter.bottleneck.fc1.weight.T)
    expected = nn.functional.layer_norm(hidden + narrow @ adapter.bottleneck.fc2.weight.T, (8,))
    out = adapter(Padded.stack([frames])).tokens
    assert out.lengths.tolist() == [5]
    torch.testing.assert_close(out.values[0], expected, rtol=0, atol=1e-5)


def test_norm_of_each_layer_follows_its_activation() -> None:
    adapter = build(3, 4, kernel_sizes=[3], strides=[1], activation="relu")
    frames = torch.randn(5, 3)
    (conv,) = convolutions(adapter)
    hidden = nn.functional.conv1d(frames.T[None], conv.weight, conv.bias, padding=1)[0].T.relu()
    expected = nn.functional.layer_norm(hidden, (4,))
    torch.testing.assert_close(adapter(Padded.stack([frames])).tokens.values[0], expected)


# q and v of 24 encoder and 24 decoder layers, and of the decoder's cross-attention, at rank 16.
FLAN_T5_XL_LORA = 72 * 2 * 16 * (2048 + 2048)


@pytest.mark.parametrize(
    ("in_dim", "out_dim", "options", "count"),
    [
        # SpeechVerse with WavLM-Large.
        (1024, 2048, {}, (1024 + 2048) * 3 * 2048 + 4 * 2048 + 2 * 2048),
        (768, 768, WAVPROMPT, 768 * 768 * 8 + 768 + 768 * 768 + 768),
        # BLSP: whisper-small and Llama-2-7B.
        (
            768,
            4096,
            BLSP,
            2 * (768 * 1536 * 5 + 1536) + 768 * 8192 * 5 + 8192 + 2 * 4096 * 512 + 2 * 4096,
        ),
    ],
)
def test_sizes_of_published_adapters(in_dim: int, out_dim: int, options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        adapter = build(in_dim, out_dim, **options)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == count


def test_speechverses_trainable_parameters() -> None:
    """28.3 M with WavLM-Large, LoRA of Flan-T5-XL's q and v included (arXiv 2405.08295, table 3)."""
    with torch.device("meta"):
        adapter = build(1024, 2048)
    total = sum(parameter.numel() for parameter in adapter.parameters()) + FLAN_T5_XL_LORA
    assert round(total / 1e6, 1) == 28.3


def test_tiny_config_keeps_the_structure() -> None:
    assert ConvAdapter.tiny_config() == Config()
    tiny = ConvAdapter.tiny_config(Config(**BLSP))  # type: ignore[arg-type]
    assert tiny == Config(**{**BLSP, "hidden_dim": 32, "bottleneck_dim": 8})  # type: ignore[arg-type]
    assert ConvAdapter.shard_classes(build()) == {ConvLayer}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_sizes": []}, "kernel_sizes: must not be empty"),
        ({"strides": [2]}, "kernel_sizes and strides must name each convolution, and there are 2 and 1"),
        ({"strides": [2, 0]}, r"strides\[1\]: must be at least 1, not 0"),
        ({"strides": [2, 3]}, "leaves frames unread: it takes a stride of at most 2, or padding: fill"),
        ({"strides": [2, 4]}, "leaves frames unread: it takes a stride of at most 2$"),
        ({"strides": [2, 4], "padding": "fill"}, "padding: fill leaves .* stride of at most 3$"),
        ({"padding": "same"}, "padding: 'same' is not one of"),
        ({"activation": "tanh"}, "activation: 'tanh' is not one of"),
        ({"norm": "layer"}, "norm: 'layer' is not one of"),
        ({"hidden_dim": 0}, "hidden_dim: must be at least 1, not 0"),
        ({"bottleneck_dim": 0}, "bottleneck_dim: must be at least 1, not 0"),
        (
            {"kernel_sizes": [3], "strides": [2], "hidden_dim": 8},
            "hidden_dim is read only with two or more convolutions, or with linear: true",
        ),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options)
