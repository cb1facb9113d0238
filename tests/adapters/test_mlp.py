from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kikimimi import AdapterContext, Padded
from kikimimi.testing import Check, parametrize_checks
from kikimimi_adapters.mlp import MLP, MLPAdapter
from kikimimi_encoders.whisper.whisper import Sizes, WhisperEncoder

Config = MLPAdapter.Config


@parametrize_checks(
    MLPAdapter,
    dropping=Config(downsample=5, remainder="drop", activation="relu", hidden_dim=2048, bias=True),
    bounded=Config(downsample=2, pool="mean", remainder="drop", num_layers=1, bias=True, boundaries=True),
    normed=Config(downsample=20, pool="mean", norm="plain", num_layers=1, bias=True),
    affine=Config(norm="layer", boundaries=True),
    ultravox=Config(downsample=8, norm="rms", second_norm="hidden", norm_init=0.4, activation="swiglu"),
    windows=Config(downsample=8, window_frames=9),
    ultravox_04=Config(norm="rms", second_norm="output", activation="swiglu", num_layers=3, boundaries=True),
)
def test_contract(check: Check) -> None:
    check()


def build(in_dim: int = 2, out_dim: int = 3, **options: Any) -> MLPAdapter:
    torch.manual_seed(0)
    context = AdapterContext(in_dim=in_dim, out_dim=out_dim, frame_rate=50.0)
    return MLPAdapter(MLPAdapter.Config(**options), context)


def linears(adapter: MLPAdapter) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in adapter.modules() if isinstance(m, nn.Linear)]


def identity_first(adapter: MLPAdapter) -> None:
    """Make a one-layer adapter copy its pooled input."""
    (layer,) = (m for m in adapter.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        layer.weight.copy_(torch.eye(layer.out_features, layer.in_features))


FRAMES = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0], [5.0, 50.0]])


def test_stack_puts_frames_side_by_side_and_fills_the_last_group_with_zeros() -> None:
    adapter = build(out_dim=4, downsample=2, num_layers=1)
    identity_first(adapter)
    out = adapter(Padded.stack([FRAMES])).tokens
    expected = [[1.0, 10.0, 2.0, 20.0], [3.0, 30.0, 4.0, 40.0], [5.0, 50.0, 0.0, 0.0]]
    assert out.values[0].tolist() == expected
    assert out.lengths.tolist() == [3]


def test_mean_averages_the_real_frames_of_the_last_group() -> None:
    adapter = build(out_dim=2, downsample=2, pool="mean", num_layers=1)
    identity_first(adapter)
    out = adapter(Padded.stack([FRAMES, FRAMES[:3]])).tokens
    assert out.values[0].tolist() == [[1.5, 15.0], [3.5, 35.0], [5.0, 50.0]]
    assert out.values[1, :2].tolist() == [[1.5, 15.0], [3.0, 30.0]]
    assert out.lengths.tolist() == [3, 2]


def test_two_layers_by_hand() -> None:
    adapter = build(in_dim=1, out_dim=1, downsample=1, hidden_dim=2, activation="relu", bias=True)
    first, second = (m for m in adapter.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        first.bias.copy_(torch.tensor([0.0, 1.0]))
        second.weight.copy_(torch.tensor([[2.0, 3.0]]))
        second.bias.copy_(torch.tensor([0.5]))
    out = adapter(Padded.stack([torch.tensor([[2.0], [-1.0]])])).tokens.values
    # relu(2), relu(-2 + 1) -> 2, 0 -> 4.5; relu(-1), relu(1 + 1) -> 0, 2 -> 6.5
    assert out[0, :, 0].tolist() == [4.5, 6.5]


@pytest.mark.parametrize("pool", ["stack", "mean"])
@pytest.mark.parametrize("garbage", [7.0, float("nan")])
def test_what_lies_past_a_length_changes_nothing(pool: str, garbage: float) -> None:
    adapter = build(downsample=4, pool=pool)
    clean = adapter(Padded.stack([FRAMES, FRAMES[:3]])).tokens
    values = Padded.stack([FRAMES, FRAMES[:3]]).values
    values[1, 3:] = garbage
    dirty = adapter(Padded(values, torch.tensor([5, 3]))).tokens
    alone = adapter(Padded.stack([FRAMES[:3]])).tokens
    for i, length in enumerate(clean.lengths.tolist()):
        torch.testing.assert_close(dirty.values[i, :length], clean.values[i, :length], rtol=0, atol=0)
    torch.testing.assert_close(clean.values[1, :1], alone.values[0])


def test_gradients_stay_finite_when_the_padding_is_nan() -> None:
    adapter = build(pool="mean")
    values = torch.full((1, 8, 2), float("nan"))
    values[0, :5] = FRAMES
    values.requires_grad_()
    adapter(Padded(values, torch.tensor([5]))).tokens.values[0, :2].sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()


@pytest.mark.parametrize("num_frames", [1, 3, 4, 5, 1500])
def test_max_tokens_is_exact(num_frames: int) -> None:
    adapter = build(downsample=4)
    out = adapter(Padded.stack([torch.zeros(num_frames, 2)])).tokens
    assert out.lengths.tolist() == [adapter.max_tokens(num_frames)] == [-(-num_frames // 4)]
    assert out.values.shape == (1, adapter.max_tokens(num_frames), 3)


def reference(adapter: MLPAdapter, x: Tensor, activation: nn.Module) -> Tensor:
    first, second = (m for m in adapter.modules() if isinstance(m, nn.Linear))
    out: Tensor = second(activation(first(x)))
    return out


def test_expresses_the_mean_pooled_projector() -> None:
    adapter = build(1280, 4096, downsample=4, pool="mean", hidden_dim=8192)
    assert linears(adapter) == [(1280, 8192), (8192, 4096)]
    assert all("bias" not in name for name, _ in adapter.named_parameters())
    frames = torch.randn(8, 1280)
    out = adapter(Padded.stack([frames])).tokens.values[0]
    torch.testing.assert_close(out, reference(adapter, frames.view(2, 4, 1280).mean(1), nn.GELU()))


def test_expresses_llama_omnis_projector() -> None:
    adapter = build(1280, 64, downsample=5, activation="relu", hidden_dim=2048, bias=True)
    assert linears(adapter) == [(6400, 2048), (2048, 64)]
    frames = torch.randn(10, 1280)
    out = adapter(Padded.stack([frames])).tokens.values[0]
    torch.testing.assert_close(out, reference(adapter, frames.view(2, 6400), nn.ReLU()))


def test_expresses_voxtrals_projector_with_the_defaults() -> None:
    adapter = build(1280, 96)
    assert linears(adapter) == [(5120, 96), (96, 96)]
    frames = torch.randn(8, 1280)
    out = adapter(Padded.stack([frames])).tokens.values[0]
    torch.testing.assert_close(out, reference(adapter, frames.view(2, 5120), nn.GELU()))


class UltravoxProjector(nn.Module):
    """What fixie-ai/ultravox computes for a clip alone, written from its description, in its key names.

    Stacks of 8 frames, the last filled up with zeros; `ln_mid` from version 0.5 on, before it `ln_post`.
    """

    def __init__(self, in_dim: int, hidden_size: int, out_dim: int, *, projector_ln_mid: bool) -> None:
        super().__init__()
        second = {"ln_mid": hidden_size // 2} if projector_ln_mid else {"ln_post": out_dim}
        self.norms = nn.ParameterDict(
            {name: torch.rand(width) + 0.5 for name, width in {"ln_pre": 8 * in_dim, **second}.items()}
        )
        self.linear_1 = nn.Parameter(torch.randn(hidden_size, 8 * in_dim) / 8)
        self.linear_2 = nn.Parameter(torch.randn(out_dim, hidden_size // 2) / 8)

    def rms(self, name: str, x: Tensor) -> Tensor:
        scale: Tensor = self.norms[name]
        return scale * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    def forward(self, frames: Tensor) -> Tensor:
        """Return (T, D) for (F, E)."""
        missing = (8 - len(frames) % 8) % 8
        stacked = torch.cat([frames, torch.zeros(missing, frames.shape[1])]).reshape(-1, 8 * frames.shape[1])
        first = self.rms("ln_pre", stacked) @ self.linear_1.T
        half = first.shape[1] // 2
        gated = first[:, half:] * torch.sigmoid(first[:, half:]) * first[:, :half]
        if "ln_mid" in self.norms:
            gated = self.rms("ln_mid", gated)
        out = gated @ self.linear_2.T
        return self.rms("ln_post", out) if "ln_post" in self.norms else out


ULTRAVOX = {"downsample": 8, "norm": "rms", "second_norm": "hidden", "norm_init": 0.4, "activation": "swiglu"}


@pytest.mark.parametrize(
    ("projector_ln_mid", "second_norm", "second_name"),
    [(True, "hidden", "mlp.1.1.weight"), (False, "output", "output_norm.weight")],
    ids=["0.5", "0.4"],
)
def test_expresses_ultravoxs_projector(projector_ln_mid: bool, second_norm: str, second_name: str) -> None:
    adapter = build(16, 24, **{**ULTRAVOX, "second_norm": second_norm, "hidden_dim": 20})
    expected = UltravoxProjector(16, 40, 24, projector_ln_mid=projector_ln_mid)
    weights = {
        "norm.weight": expected.norms["ln_pre"],
        "mlp.0.weight": expected.linear_1,
        second_name: expected.norms["ln_mid" if projector_ln_mid else "ln_post"],
        "mlp.2.weight": expected.linear_2,
    }
    scales = {name: value for name, value in adapter.state_dict().items() if value.ndim == 1}
    assert set(scales) == {"norm.weight", second_name}
    assert all((value == 0.4).all() for value in scales.values())
    adapter.load_state_dict(weights)

    clips = [torch.randn(frames, 16) * 3 for frames in (1, 7, 8, 9, 64, 83)]
    with torch.no_grad():
        tokens = adapter(Padded.stack(clips)).tokens
        assert tokens.lengths.tolist() == [1, 1, 1, 2, 8, 11]
        for row, length, clip in zip(tokens.values, tokens.lengths.tolist(), clips, strict=True):
            torch.testing.assert_close(row[:length], expected(clip), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_frames", [1, 11, 12, 13, 24, 25, 36, 40])
def test_ultravox_stacks_each_window_by_itself(num_frames: int) -> None:
    options = {**ULTRAVOX, "hidden_dim": 20}
    adapter, alone = build(16, 24, window_frames=12, **options), build(16, 24, **options)
    frames = torch.randn(num_frames, 16)
    batch = Padded.stack([frames, torch.randn(40, 16)])
    dirty = Padded(batch.values.masked_fill(~batch.mask()[..., None], float("nan")), batch.lengths)
    with torch.no_grad():
        windows = torch.split(frames, 12)
        expected = torch.cat([alone(Padded.stack([window])).tokens.values[0] for window in windows])
        tokens = adapter(dirty).tokens
    assert tokens.lengths.tolist() == [len(expected), 2 * 3 + 1] == [adapter.max_tokens(num_frames), 7]
    torch.testing.assert_close(tokens.values[0, : len(expected)], expected)


def test_ultravox_has_as_many_tokens_as_its_processor_counts() -> None:
    """Of each chunk of 3,000 mel frames, ceil(frames / 16)."""
    sizes = Sizes(dim=4, num_layers=1, num_heads=1, ffn_dim=4)
    encoder = WhisperEncoder(WhisperEncoder.Config(weights="random", sizes=sizes, windows=20))
    adapter = build(4, 4, window_frames=1500, **ULTRAVOX)
    edges = [1, 319, 320, 321, 480_000, 480_001, 480_160, 480_161, 959_999, 960_001]
    for samples in [*edges, *torch.randint(1, 9_600_001, (1000,)).tolist()]:
        mel = -(-max(samples, 320) // 160)
        expected = sum(-(-min(3000, mel - start) // 16) for start in range(0, mel, 3000))
        assert adapter.max_tokens(encoder.num_frames(samples)) == expected


def test_every_layer_before_a_gate_is_twice_as_wide() -> None:
    assert linears(build(num_layers=3, hidden_dim=5, activation="swiglu")) == [(8, 10), (5, 10), (5, 3)]
    assert linears(build(activation="swiglu")) == [(8, 6), (3, 3)]
    assert linears(build(num_layers=3, hidden_dim=5, second_norm="hidden")) == [(8, 5), (5, 5), (5, 3)]


def test_a_norm_of_the_output_leaves_the_boundaries_alone() -> None:
    adapter = build(16, 8, second_norm="output", norm_init=2.0, boundaries=True)
    assert adapter.boundaries is not None
    tokens = adapter(Padded.stack([torch.randn(9, 16)])).tokens.values[0]
    torch.testing.assert_close(tokens[[0, -1]], adapter.boundaries)
    torch.testing.assert_close(tokens[1:-1].pow(2).mean(1).sqrt(), torch.full((3,), 2.0), rtol=1e-3, atol=0)


def test_three_layers() -> None:
    assert linears(build(num_layers=3, hidden_dim=5)) == [(8, 5), (5, 5), (5, 3)]


def test_drop_leaves_the_remainder_out_and_counts_it() -> None:
    adapter = build(out_dim=4, downsample=2, remainder="drop", num_layers=1)
    identity_first(adapter)
    out = adapter(Padded.stack([FRAMES, FRAMES[:4], FRAMES[:3], FRAMES[:1]]))
    assert out.tokens.lengths.tolist() == [2, 2, 1, 1]
    assert out.counts == {"dropped_frames": 2}
    assert out.tokens.values[0].tolist() == [[1.0, 10.0, 2.0, 20.0], [3.0, 30.0, 4.0, 40.0]]
    assert out.tokens.values[2, 0].tolist() == [1.0, 10.0, 2.0, 20.0]
    # Not one full group: the frame is kept, and the group filled up.
    assert out.tokens.values[3, 0].tolist() == [1.0, 10.0, 0.0, 0.0]
    assert [adapter.max_tokens(frames) for frames in (1, 2, 3, 4, 5)] == [1, 1, 1, 2, 2]
    assert build(downsample=2)(Padded.stack([FRAMES])).counts == {}


@pytest.mark.parametrize("num_frames", [1, 25])
def test_expresses_qwen_audios_projection(num_frames: int) -> None:
    """Linear, and the two vectors around; frames are averaged in pairs, then normed, in the encoder."""
    adapter = build(16, 8, downsample=1, num_layers=1, bias=True, boundaries=True)
    (layer,) = (m for m in adapter.modules() if isinstance(m, nn.Linear))
    assert adapter.boundaries is not None
    first, last = adapter.boundaries
    frames = torch.randn(num_frames, 16)
    expected = torch.cat([first[None], layer(frames), last[None]])
    tokens = adapter(Padded.stack([frames, torch.randn(30, 16)])).tokens
    assert tokens.lengths.tolist() == [len(expected), 32] == [adapter.max_tokens(num_frames), 32]
    torch.testing.assert_close(tokens.values[0, : len(expected)], expected)


@pytest.mark.parametrize("num_frames", [2, 3, 50, 51])
def test_a_mean_of_pairs_is_torchs(num_frames: int) -> None:
    """As in AvgPool1d(2, 2), Linear."""
    adapter = build(16, 8, downsample=2, pool="mean", remainder="drop", num_layers=1, bias=True)
    (layer,) = (m for m in adapter.modules() if isinstance(m, nn.Linear))
    frames = torch.randn(num_frames, 16)
    expected = layer(nn.functional.avg_pool1d(frames.T[None], 2, 2)[0].T)
    tokens = adapter(Padded.stack([frames, torch.randn(60, 16)])).tokens
    assert tokens.lengths.tolist() == [len(expected), 30] == [adapter.max_tokens(num_frames), 30]
    torch.testing.assert_close(tokens.values[0, : len(expected)], expected)


def test_plain_norm_has_no_parameters_and_a_layer_norm_has_two() -> None:
    frames = torch.randn(4, 3) * 5 + 2
    adapter = build(3, 3, downsample=1, num_layers=1, norm="plain")
    identity_first(adapter)
    assert [name for name, _ in adapter.named_parameters()] == ["mlp.0.weight"]
    expected = (frames - frames.mean(1, keepdim=True)) / (
        frames.var(1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(adapter(Padded.stack([frames])).tokens.values[0], expected)
    affine = dict(build(3, 3, downsample=1, norm="layer", norm_init=0.5).named_parameters())
    assert list(affine)[:2] == ["norm.weight", "norm.bias"]
    assert affine["norm.weight"].tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("in_dim", "out_dim", "options", "count"),
    [
        # 1280 -> 8192 -> 4096, mean of 4, no bias.
        (1280, 4096, {"pool": "mean", "hidden_dim": 8192}, 44_040_192),
        # LLaMA-Omni, and SLAM-LLM with Whisper-large: 6400 -> 2048 -> 4096 with biases.
        (
            1280,
            4096,
            {"downsample": 5, "remainder": "drop", "activation": "relu", "hidden_dim": 2048, "bias": True},
            6400 * 2048 + 2048 + 2048 * 4096 + 4096,
        ),
        # Voxtral Mini and Small.
        (1280, 3072, {}, 25_165_824),
        (1280, 5120, {}, 52_428_800),
        # Phi-4-Multimodal's speech projector: 1024 -> 3072 -> 3072.
        (1024, 3072, {"downsample": 1, "bias": True}, 1024 * 3072 + 3072 + 3072 * 3072 + 3072),
        # Qwen-Audio: a linear layer and two vectors; Qwen2-Audio: without the vectors.
        (
            1280,
            4096,
            {"downsample": 2, "pool": "mean", "num_layers": 1, "bias": True, "boundaries": True},
            1280 * 4096 + 4096 + 2 * 4096,
        ),
        (1280, 4096, {"downsample": 2, "pool": "mean", "num_layers": 1, "bias": True}, 5_246_976),
        # LTU-AS's projection; AudioChatLlama's.
        (
            1280,
            4096,
            {"downsample": 20, "pool": "mean", "num_layers": 1, "bias": True, "norm": "plain"},
            5_246_976,
        ),
        (512, 4096, {"downsample": 1, "num_layers": 1, "bias": True}, 512 * 4096 + 4096),
        # Ultravox: stacks of 10240, a gate of 2 x 2048, and the norms.
        (1280, 4096, {**ULTRAVOX, "hidden_dim": 2048}, 10240 + 10240 * 4096 + 2048 + 2048 * 4096),
        (
            1280,
            4096,
            {**ULTRAVOX, "hidden_dim": 2048, "second_norm": "output"},
            10240 + 10240 * 4096 + 2048 * 4096 + 4096,
        ),
    ],
)
def test_sizes_of_published_projectors(
    in_dim: int, out_dim: int, options: dict[str, Any], count: int
) -> None:
    with torch.device("meta"):
        adapter = build(in_dim, out_dim, **options)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == count


def test_runs_in_bfloat16() -> None:
    adapter = build(pool="mean").to(torch.bfloat16)
    out = adapter(Padded.stack([FRAMES.bfloat16()])).tokens.values
    assert out.dtype == torch.bfloat16


def test_tiny_config_keeps_the_structure() -> None:
    config = MLPAdapter.Config(downsample=5, pool="mean", num_layers=3, hidden_dim=4096, activation="relu")
    tiny = MLPAdapter.tiny_config(config)
    assert tiny == MLPAdapter.Config(
        downsample=5, pool="mean", num_layers=3, hidden_dim=32, activation="relu"
    )
    assert MLPAdapter.tiny_config(MLPAdapter.Config(num_layers=1)).hidden_dim is None
    assert MLPAdapter.tiny_config().hidden_dim == 32


def test_shard_classes_occur_in_the_modules() -> None:
    adapter = build()
    assert adapter.shard_classes() == {MLP}
    assert any(isinstance(module, MLP) for module in adapter.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"downsample": 0}, "downsample: must be at least 1, not 0"),
        ({"pool": "max"}, "pool: 'max' is not one of"),
        ({"remainder": "cut"}, "remainder: 'cut' is not one of"),
        ({"remainder": "drop", "downsample": 1}, "remainder is read only with a downsample of 2 or more"),
        ({"window_frames": 1500}, r"begins after 1500 frames in any case, as downsample \(4\) divides them"),
        ({"window_frames": 9, "pool": "mean"}, "read only with pool: stack and remainder: pad"),
        ({"window_frames": 9, "remainder": "drop"}, "read only with pool: stack and remainder: pad"),
        ({"norm": "batch"}, "norm: 'batch' is not one of"),
        ({"norm_init": 0.4}, "norm_init is read only with a norm that has a learned scale"),
        ({"norm": "plain", "norm_init": 0.4}, "norm_init is read only with a norm that has a learned scale"),
        ({"norm": "rms", "norm_init": 0.0}, "norm_init: must be"),
        ({"num_layers": 1, "second_norm": "hidden"}, "second_norm 'hidden' needs num_layers of 2 or more"),
        ({"num_layers": 0}, "num_layers: must be at least 1, not 0"),
        ({"hidden_dim": 0}, "hidden_dim: must be at least 1, not 0"),
        ({"activation": "tanh"}, "activation: 'tanh' is not one of"),
        ({"num_layers": 1, "hidden_dim": 8}, "hidden_dim is read only with num_layers of 2 or more"),
        ({"num_layers": 1, "activation": "relu"}, "activation is read only with num_layers of 2 or more"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLPAdapter.Config(**options)
