from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kikimimi import AdapterContext, Padded
from kikimimi.testing import Check, parametrize_checks
from kikimimi_adapters.tltr import ResidualAttentionBlock, TLTRAdapter

Config = TLTRAdapter.Config


@parametrize_checks(TLTRAdapter, ltu_as=Config(), whisper_at=Config(dim=512), short=Config(downsample=3))
def test_contract(check: Check) -> None:
    check()


def build(num_concat_layers: int = 3, layer_dim: int = 8, out_dim: int = 10, **options: Any) -> TLTRAdapter:
    torch.manual_seed(0)
    context = AdapterContext(
        in_dim=num_concat_layers * layer_dim,
        out_dim=out_dim,
        frame_rate=50.0,
        num_concat_layers=num_concat_layers,
    )
    return TLTRAdapter(Config(**{"downsample": 4, "layer_heads": 2, **options}), context)


def torchs_block(block: ResidualAttentionBlock) -> nn.TransformerEncoderLayer:
    """PyTorch's own layer with the same weights; its key has a bias, of zero."""
    dim = block.attn.query.in_features
    other = nn.TransformerEncoderLayer(
        dim,
        block.attn.num_heads,
        4 * dim,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    attn = block.attn
    parts = [attn.query.weight, attn.key.weight, attn.value.weight]
    state: dict[str, Any] = {
        "self_attn.in_proj_weight": torch.cat(parts),
        "self_attn.in_proj_bias": torch.cat([attn.query.bias, torch.zeros(dim), attn.value.bias]),
    }
    names = {
        "self_attn.out_proj": attn.out,
        "linear1": block.mlp[0],
        "linear2": block.mlp[2],
        "norm1": block.attn_ln,
        "norm2": block.mlp_ln,
    }
    for name, module in names.items():
        state |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    other.load_state_dict(state)
    return other.eval()


def reference(adapter: TLTRAdapter, taps: Tensor) -> Tensor:
    """One clip (K, F, E) whose frames fill the groups, step by step as in LTU-AS."""
    num_concat_layers, _, layer_dim = taps.shape
    rows = taps.view(num_concat_layers, -1, adapter.config.downsample, layer_dim).mean(2)
    if adapter.down_layer is not None:
        rows = adapter.down_layer(rows)
    time, layer = torchs_block(adapter.time_tr), torchs_block(adapter.layer_tr)
    rows = torch.stack([time(row[None])[0] for row in rows])
    mixed = torch.stack([layer(rows[None, :, t])[0].mean(0) for t in range(rows.shape[1])])
    linear = adapter.audio_proj[1]
    out: Tensor = linear(
        (mixed - mixed.mean(-1, keepdim=True)) / (mixed.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    )
    return out


@pytest.mark.parametrize("options", [{}, {"dim": 12}, {"time_heads": 2, "layer_heads": 4}])
def test_equals_the_reference_on_clips_of_unequal_lengths(options: dict[str, Any]) -> None:
    adapter = build(**options)
    clips = [torch.randn(3, length, 8) for length in (40, 4, 12)]
    # (K, F, E) -> (F, K x E): layers side by side.
    batch = Padded.stack([clip.transpose(0, 1).flatten(1) for clip in clips])
    with torch.no_grad():
        out = adapter(batch).tokens
        assert out.lengths.tolist() == [10, 1, 3]
        for clip, tokens in zip(clips, out.unstack(), strict=True):
            torch.testing.assert_close(tokens, reference(adapter, clip), rtol=0, atol=1e-5)


def test_the_last_group_is_the_mean_of_its_real_frames() -> None:
    adapter = build()
    frames = torch.randn(6, 24)
    filled = torch.cat([frames, frames[4:6].mean(0, keepdim=True).expand(2, -1)])
    assert adapter.max_tokens(6) == 2
    with torch.no_grad():
        out = adapter(Padded.stack([frames])).tokens
        torch.testing.assert_close(out.values, adapter(Padded.stack([filled])).tokens.values)


def test_one_time_block_for_all_layers_and_no_order_among_them() -> None:
    adapter = build()
    clip = torch.randn(3, 20, 8)
    with torch.no_grad():
        one = adapter(Padded.stack([clip.transpose(0, 1).flatten(1)])).tokens.values
        other = adapter(Padded.stack([clip.flip(0).transpose(0, 1).flatten(1)])).tokens.values
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        # Whisper-large: 40.0 M and 7.2 M with Whisper-AT's classifier of 527 sounds, 0.68 M and 0.27 M.
        ({}, 39_352_320),
        ({"dim": 512}, 6_962_176),
    ],
)
def test_sizes(options: dict[str, Any], blocks: int) -> None:
    with torch.device("meta"):
        context = AdapterContext(in_dim=32 * 1280, out_dim=4096, frame_rate=50.0, num_concat_layers=32)
        adapter = TLTRAdapter(Config(**options), context)
    projection = options.get("dim", 1280) * 4096 + 4096
    assert sum(parameter.numel() for parameter in adapter.parameters()) == blocks + projection
    # 10 s become 25 tokens.
    assert adapter.max_tokens(500) == 25


def test_tiny_config_keeps_the_structure() -> None:
    assert TLTRAdapter.tiny_config() == Config()
    assert TLTRAdapter.tiny_config(Config(dim=512)) == Config(dim=32, layer_heads=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"downsample": 0}, "downsample: must be at least 1, not 0"),
        ({"time_heads": 0}, "time_heads: must be at least 1, not 0"),
        ({"layer_heads": 0}, "layer_heads: must be at least 1, not 0"),
        ({"dim": 0}, "dim: must be at least 1, not 0"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_refuses_a_single_layer_and_heads_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"gets only one: name two or more with encoder\.layers"):
        build(num_concat_layers=1)
    with pytest.raises(ValueError, match=r"layer_heads \(3\) must divide the width of the blocks \(8\)"):
        build(layer_heads=3)
    with pytest.raises(ValueError, match=r"time_heads \(5\) must divide the width of the blocks \(12\)"):
        build(time_heads=5, dim=12)
