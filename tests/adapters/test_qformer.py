from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, Blip2QFormerConfig, Blip2QFormerModel, GraniteSpeechConfig
from transformers.models.bert.modeling_bert import BertEncoder
from transformers.models.granite_speech.modeling_granite_speech import GraniteSpeechEncoderProjector

from kikimimi import AdapterContext, Padded, WeightsError
from kikimimi.model.assembly import assemble
from kikimimi.model.trainable import freeze_all_but, trainable_names
from kikimimi.recipe import load_recipe
from kikimimi.testing import parametrize_checks
from kikimimi_adapters.qformer import QFormer, QFormerAdapter, QFormerLayer, granite_names

SMALL = {"hidden_dim": 32, "num_heads": 4, "ffn_dim": 64}
RECIPE = """
name: small
encoder: {name: whisper, weights: random, sizes: {dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 64}}
adapter:
  {name: qformer, num_layers: 1, hidden_dim: 32, num_heads: 4, ffn_dim: 64,
   lora: {rank: 2, targets: [query, key, value]}}
llm: {name: llama, scratch: {dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 64, tokenizer: bytes}}
stages:
  align: {train: {adapter: {lr: 0.1}}, data: {x: {shards: x.tar, task: chat}}, steps: 1}
"""


def build(in_dim: int = 8, out_dim: int = 6, num_concat_layers: int = 1, **options: Any) -> QFormerAdapter:
    torch.manual_seed(0)
    context = AdapterContext(
        in_dim=in_dim, out_dim=out_dim, frame_rate=50.0, num_concat_layers=num_concat_layers
    )
    return QFormerAdapter(QFormerAdapter.Config(**{**SMALL, **options}), context).eval()


def count_on_meta(in_dim: int, out_dim: int, num_concat_layers: int = 1, **options: Any) -> dict[str, int]:
    with torch.device("meta"):
        context = AdapterContext(
            in_dim=in_dim, out_dim=out_dim, frame_rate=50.0, num_concat_layers=num_concat_layers
        )
        adapter = QFormerAdapter(QFormerAdapter.Config(**options), context)
    assert all(parameter.is_meta for parameter in adapter.parameters())
    return {
        "all": sum(p.numel() for p in adapter.parameters()),
        "qformer": sum(p.numel() for p in adapter.qformer.parameters()),
    }


def shake(module: torch.nn.Module) -> None:
    """Move every weight away from its start, biases and norms too."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))


@parametrize_checks(
    QFormerAdapter,
    windows=QFormerAdapter.Config(),
    drop=QFormerAdapter.Config(remainder="drop", num_queries=3),
    pad=QFormerAdapter.Config(remainder="pad", num_queries=3, window_seconds=0.3),
    clip=QFormerAdapter.Config(
        num_queries=64, window_seconds=None, query_norm=False, output_norm=True, cross_attention_frequency=2
    ),
)
def test_contract(check: Any) -> None:
    check()


def reference(
    layers: int, frequency: int, source_dim: int, heads: int = 4
) -> tuple[Blip2QFormerModel, QFormer]:
    torch.manual_seed(1)
    theirs = Blip2QFormerModel(
        Blip2QFormerConfig(
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=64,
            cross_attention_frequency=frequency,
            encoder_hidden_size=source_dim,
        )
    ).eval()
    shake(theirs)
    config = QFormerAdapter.Config(num_layers=layers, hidden_dim=32, num_heads=heads, ffn_dim=64)
    ours = QFormer(config, source_dim=source_dim, num_queries=3, cross_attention_frequency=frequency).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize(("layers", "frequency", "source_dim"), [(2, 1, 20), (4, 2, 32), (3, 3, 7)])
def test_layers_equal_blip2s(layers: int, frequency: int, source_dim: int) -> None:
    theirs, ours = reference(layers, frequency, source_dim)
    queries, frames = torch.randn(3, 3, 32), torch.randn(3, 11, source_dim)
    mask = torch.arange(11) < torch.tensor([11, 4, 1])[:, None]
    with torch.no_grad():
        expected = theirs(
            query_embeds=queries, encoder_hidden_states=frames, encoder_attention_mask=mask.long()
        ).last_hidden_state
        torch.testing.assert_close(ours(queries, [(frames, mask)]), expected, rtol=0, atol=1e-5)


def test_frames_in_several_tensors_are_the_same_frames() -> None:
    _, ours = reference(2, 1, 20)
    queries, frames = torch.randn(5, 3, 32), torch.randn(5, 11, 20)
    mask = torch.arange(11) < torch.tensor([11, 9, 4, 3, 1])[:, None]
    with torch.no_grad():
        together = ours(queries, [(frames, mask)])
        apart = ours(queries, [(frames[:2], mask[:2]), (frames[2:, :4], mask[2:, :4])])
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-5)


def test_window_level_equals_salmonns_recipe_on_blip2s_layers() -> None:
    adapter = build(in_dim=20, num_queries=2, remainder="drop")
    theirs, _ = reference(2, 1, 20)
    adapter.qformer.load_state_dict(theirs.state_dict())
    frames = [torch.randn(length, 20) for length in (40, 17, 55)]
    with torch.no_grad():
        out = adapter(Padded.stack(frames))
        for clip, found in zip(frames, out.tokens.unstack(), strict=True):
            # SALMONN: unfold with kernel and stride round(1500 x 0.333333 / 30) = 17, each window by itself.
            windows = clip.unfold(0, 17, 17).transpose(1, 2)
            read = theirs(
                query_embeds=adapter.queries.expand(len(windows), -1, -1), encoder_hidden_states=windows
            ).last_hidden_state
            torch.testing.assert_close(found, adapter.proj(read).flatten(0, 1), rtol=0, atol=1e-5)
    assert out.tokens.lengths.tolist() == [4, 2, 6]
    assert out.counts == {"frames_dropped": 6 + 0 + 4}


def desta2(adapter: QFormerAdapter, layers: list[Tensor]) -> Tensor:
    """What DeSTA2's connector computes: each layer through one BERT decoder, mixed for each query."""
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        add_cross_attention=True,
        is_decoder=True,
    )
    config._attn_implementation = "eager"
    bert = BertEncoder(config).eval()
    names = {"intermediate_query": "intermediate", "output_query": "output", "attention.attention": None}
    state = {}
    for name, value in adapter.qformer.encoder.state_dict().items():
        name = name.replace("attention.attention.", "attention.self.")
        for ours, theirs in names.items():
            name = name if theirs is None else name.replace(ours, theirs)
        state[name] = value
    bert.load_state_dict(state)
    read = []
    for number, layer in enumerate(layers):
        out = bert(hidden_states=adapter.queries[number][None], encoder_hidden_states=layer[None])
        read.append(out.last_hidden_state[0])
    assert adapter.tap_weights is not None
    assert adapter.norm is not None
    shares = adapter.tap_weights.softmax(-1)  # (Q, taps)
    mixed = sum(shares[:, k, None] * read[k] for k in range(len(layers)))
    assert isinstance(mixed, Tensor)
    # Sequential(LayerNorm, Linear) there, whose epsilon is torch's and not BERT's.
    normed = torch.nn.functional.layer_norm(
        mixed, mixed.shape[-1:], adapter.norm.weight, adapter.norm.bias, 1e-5
    )
    tokens: Tensor = adapter.proj(normed)
    return tokens


def test_whole_clip_with_several_layers_equals_desta2s_connector() -> None:
    adapter = build(
        in_dim=96, num_concat_layers=3, num_queries=5, window_seconds=None, query_norm=False, output_norm=True
    )
    shake(adapter)
    clips = [[torch.randn(length, 32) for _ in range(3)] for length in (9, 21, 1)]
    with torch.no_grad():
        out = adapter(Padded.stack([torch.cat(layers, dim=-1) for layers in clips])).tokens
        assert out.lengths.tolist() == [5, 5, 5]
        for found, layers in zip(out.unstack(), clips, strict=True):
            torch.testing.assert_close(found, desta2(adapter, layers), rtol=0, atol=1e-5)


GRANITE: dict[str, Any] = {"num_queries": 3, "window_seconds": 0.3, "remainder": "pad"}


def granite_projector(in_dim: int = 20, out_dim: int = 6, **sizes: Any) -> GraniteSpeechEncoderProjector:
    projector = {
        "model_type": "blip_2_qformer",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "encoder_hidden_size": in_dim,
        "cross_attention_frequency": 1,
    }
    config = GraniteSpeechConfig(
        projector_config={**projector, **sizes}, text_config={"model_type": "granite", "hidden_size": out_dim}
    )
    torch.manual_seed(2)
    theirs = GraniteSpeechEncoderProjector(config).eval()
    shake(theirs)
    return theirs


def save_granite(folder: Path, prefix: str, config: dict[str, Any] | None = None, **sizes: Any) -> str:
    """Save the projector with what the names of a whole model's tensors begin with."""
    theirs = granite_projector(**sizes)
    folder.mkdir(exist_ok=True)
    written = {
        "model_type": "granite_speech",
        "projector_config": theirs.qformer.config.to_dict(),
        "window_size": 15,
        "downsample_rate": 5,
    }
    (folder / "config.json").write_text(json.dumps({**written, **(config or {})}))
    state = {prefix + name: value.contiguous() for name, value in theirs.state_dict().items()}
    save_file({**state, "encoder.input_linear.bias": torch.zeros(3)}, folder / "model.safetensors")
    return str(folder)


def test_windows_filled_with_zeros_equal_granite_speechs_projector() -> None:
    theirs, adapter = granite_projector(), build(in_dim=20, **GRANITE)
    adapter.load_state_dict(granite_names(theirs.state_dict()))
    frames = [torch.randn(length, 20) for length in (1, 14, 15, 16, 47)]
    batch = Padded.stack(frames)
    dirty = batch.values.masked_fill(~batch.mask()[..., None], float("nan"))
    with torch.no_grad():
        out = adapter(Padded(dirty, batch.lengths)).tokens
        assert out.lengths.tolist() == [3, 3, 3, 6, 12]
        for clip, found in zip(frames, out.unstack(), strict=True):
            torch.testing.assert_close(found, theirs(clip[None])[0], rtol=0, atol=1e-5)
        # Where the queries do not see the zeros, what they read of a short window is something else.
        masked = build(in_dim=20, **{**GRANITE, "remainder": "keep"})
        masked.load_state_dict(adapter.state_dict())
        other = masked(batch).tokens.unstack()[4]
    torch.testing.assert_close(other[:9], out.unstack()[4][:9], rtol=0, atol=1e-5)
    assert (other[9:] - out.unstack()[4][9:]).abs().max() > 1e-3


@pytest.mark.parametrize("prefix", ["projector.", "model.projector."])
def test_starts_from_the_projector_of_a_granite_speech(tmp_path: Path, prefix: str) -> None:
    adapter = build(in_dim=20, weights=save_granite(tmp_path, prefix), **GRANITE)
    adapter.load_weights()
    assert adapter.pretrained_names() == {name for name, _ in adapter.named_parameters()}
    frames = torch.randn(23, 20)
    with torch.no_grad():
        found = adapter(Padded.stack([frames])).tokens.values
        torch.testing.assert_close(found, granite_projector()(frames[None]), rtol=0, atol=1e-5)
    tiny = QFormerAdapter.tiny_config(adapter.config)
    assert (tiny.weights, tiny.remainder) == ("random", "pad")


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ({"num_queries": 1}, {}, r"other sizes: adapter\.num_queries is 1, needs 3$"),
        ({"window_seconds": 0.28}, {}, r"adapter\.window_seconds is 0\.28, needs 0\.3 \(15 frames\)"),
        ({"ffn_dim": 60}, {}, r"adapter\.ffn_dim is 60, needs 64"),
        (
            {"num_layers": 1, "num_heads": 2},
            {},
            r"num_layers is 1, needs 2; adapter\.num_heads is 2",
        ),
        ({"cross_attention_frequency": 2}, {}, "cross_attention_frequency is 2, needs 1"),
        ({}, {"downsample_rate": 0}, r"config\.json: integer division"),
        (
            {},
            {"projector_config": {"hidden_act": "relu"}},
            "hidden_act 'relu', and adapter 'qformer'",
        ),
        ({}, {"model_type": "blip_2"}, "is a 'blip_2' model; adapter 'qformer' takes 'granite_speech'"),
    ],
)
def test_refuses_a_projector_of_other_sizes(
    tmp_path: Path, options: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    weights = save_granite(tmp_path, "projector.", config)
    with pytest.raises(WeightsError, match=message):
        build(in_dim=20, weights=weights, **{**GRANITE, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_norm": False}, r"2 unexpected: qformer\.layernorm\.bias, qformer\.layernorm\.weight"),
        ({"output_norm": True}, r"2 missing: norm\.weight, norm\.bias"),
        ({"out_dim": 8}, r"proj\.weight \(is \[6, 32\], needs \[8, 32\]\)"),
        ({"in_dim": 40, "num_concat_layers": 2}, r"1 missing: tap_weights; .*queries \(is \[1, 3, 32\]"),
    ],
)
def test_a_tensor_without_a_place_or_a_place_without_a_tensor_is_named(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    weights = save_granite(tmp_path, "projector.")
    adapter = build(**{"in_dim": 20, "weights": weights, **GRANITE, **options})
    with pytest.raises(WeightsError, match=message):
        adapter.load_weights()


def test_refuses_weights_without_a_projector(tmp_path: Path) -> None:
    weights = save_granite(tmp_path, "connector.")
    with pytest.raises(WeightsError, match=r"57 missing: queries, "):
        build(in_dim=20, weights=weights, **GRANITE).load_weights()


@pytest.mark.parametrize("window_seconds", [None, 0.1])
def test_several_layers_do_not_feel_padding(window_seconds: float | None) -> None:
    adapter = build(in_dim=12, num_concat_layers=3, num_queries=2, window_seconds=window_seconds)
    shake(adapter)
    clips = [torch.randn(length, 12) for length in (13, 4, 30)]
    batch = Padded.stack(clips)
    dirty = batch.values.masked_fill(~batch.mask()[..., None], float("nan"))
    with torch.no_grad():
        together = adapter(Padded(dirty, batch.lengths)).tokens.unstack()
        for clip, found in zip(clips, together, strict=True):
            alone = adapter(Padded.stack([clip])).tokens.values[0]
            torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


def test_the_shares_of_the_layers_start_equal_and_are_learned() -> None:
    adapter = build(in_dim=12, num_concat_layers=3, num_queries=2, window_seconds=None)
    assert adapter.tap_weights is not None
    assert adapter.tap_weights.tolist() == [[0.0] * 3] * 2
    adapter(Padded.stack([torch.randn(9, 12)])).tokens.values.square().sum().backward()
    assert adapter.tap_weights.grad is not None
    assert adapter.tap_weights.grad.all()


@pytest.mark.parametrize(
    ("num_frames", "keep", "drop"),
    [(1, 1, 1), (16, 1, 1), (17, 1, 1), (18, 2, 1), (33, 2, 1), (34, 2, 2), (1500, 89, 88)],
)
def test_number_of_tokens(num_frames: int, keep: int, drop: int) -> None:
    # 1500 / 17 = 88.2: SALMONN turns 30 s into 88 tokens.
    for remainder, expected in (("keep", keep), ("pad", keep), ("drop", drop)):
        adapter = build(remainder=remainder)
        assert adapter.window == 17
        out = adapter(Padded.stack([torch.randn(num_frames, 8)]))
        assert out.tokens.lengths.tolist() == [adapter.max_tokens(num_frames)] == [expected]
        assert out.tokens.values.shape == (1, expected, 6)


def test_without_windows_every_clip_has_as_many_tokens_as_queries() -> None:
    adapter = build(num_queries=7, window_seconds=None)
    assert [adapter.max_tokens(n) for n in (1, 50, 1500)] == [7, 7, 7]
    out = adapter(Padded.stack([torch.randn(n, 8) for n in (1, 50)])).tokens
    assert out.lengths.tolist() == [7, 7]


def test_kept_remainder_is_read_from_its_own_frames() -> None:
    adapter = build()
    frames = torch.randn(20, 8)
    with torch.no_grad():
        both = adapter(Padded.stack([frames])).tokens.values[0]
        rest = adapter(Padded.stack([frames[17:]])).tokens.values[0]
    torch.testing.assert_close(both[1:], rest, rtol=0, atol=1e-6)


def test_dropped_frames_are_counted_over_the_batch() -> None:
    adapter = build(remainder="drop")
    out = adapter(Padded.stack([torch.randn(n, 8) for n in (5, 17, 20, 40)]))
    assert out.counts == {"frames_dropped": 0 + 0 + 3 + 6}
    assert build().forward(Padded.stack([torch.randn(20, 8)])).counts == {}


def test_a_lone_query_has_nothing_to_learn_in_the_scores_of_its_self_attention() -> None:
    frozen = [name for name, p in build(num_layers=1).named_parameters() if not p.requires_grad]
    start = "qformer.encoder.layer.0.attention.attention."
    assert frozen == [f"{start}{name}" for name in ("query.weight", "query.bias", "key.weight", "key.bias")]
    assert all(p.requires_grad for p in build(num_queries=2).parameters())


def test_stages_and_lora_leave_the_scores_of_a_lone_query_alone(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    recipe = load_recipe(tmp_path / "r.yaml")
    model = assemble(recipe)
    start = "adapter.qformer.encoder.layer.0.attention.attention."
    constants = {f"{start}{of}.base_layer.{kind}" for of in ("query", "key") for kind in ("weight", "bias")}
    assert model.fixed >= constants
    trained = trainable_names(model, recipe.stages["align"], where="stages.align")["adapter"]
    assert not constants & set(trained)
    freeze_all_but(model, trained)
    model.adapter(Padded.stack([torch.randn(20, 32)])).tokens.values.square().sum().backward()
    found = {f"adapter.{name}" for name, p in model.adapter.named_parameters() if p.grad is not None}
    assert found == set(trained)  # data-parallel training waits for a gradient of each
    assert found > {f"{start}{of}.lora_A.default.weight" for of in ("query", "key", "value")}


def test_salmonns_size() -> None:
    # Whisper-large-v2 beside BEATs: 1280 + 768. Attention 4 x (768^2 + 768) + LayerNorm; cross-attention
    # with keys and values of 2048; feed-forward 768 x 3072; twice; and the LayerNorm of the query.
    counts = count_on_meta(2048, 5120)
    layer = (
        4 * (768 * 768 + 768)
        + 2 * (768 * 768 + 768)
        + 2 * (2048 * 768 + 768)
        + (768 * 3072 + 3072 + 3072 * 768 + 768)
        + 3 * 2 * 768
    )
    assert counts["qformer"] == 2 * layer + 2 * 768 == 22_837_248
    assert counts["all"] == 22_837_248 + 768 + (768 * 5120 + 5120) == 26_775_296
    # With the LoRA of Vicuna-13B (rank 8 on the query and value layers of 40 layers x 5120) and the
    # LayerNorms of both encoders' outputs: the paper's 33 million.
    lora = 40 * 2 * 8 * (5120 + 5120)
    assert round((counts["all"] + lora + 2 * 2048) / 1e6) == 33


def test_granite_speechs_size() -> None:
    sizes = {"hidden_dim": 1024, "num_heads": 16, "ffn_dim": 4096}
    with torch.device("meta"):
        theirs = granite_projector(
            1024, 2048, hidden_size=1024, num_attention_heads=16, intermediate_size=4096
        )
    counts = count_on_meta(1024, 2048, **GRANITE, **sizes)
    layer = 8 * (1024 * 1024 + 1024) + (1024 * 4096 + 4096 + 4096 * 1024 + 1024) + 3 * 2 * 1024
    connector = 2 * layer + 3 * 1024 + 2 * 1024 + (1024 * 2048 + 2048)
    assert counts["all"] == sum(p.numel() for p in theirs.parameters()) == connector == 35_697_664


def test_desta2s_size() -> None:
    counts = count_on_meta(
        4 * 768, 4096, 4, num_queries=64, window_seconds=None, query_norm=False, output_norm=True
    )
    layer = 8 * (768 * 768 + 768) + (768 * 3072 + 3072 + 3072 * 768 + 768) + 3 * 2 * 768
    connector = 2 * layer + 4 * 64 * 768 + 64 * 4 + 2 * 768 + (768 * 4096 + 4096)
    assert counts["all"] == connector == 22_251_776


def test_tiny_config_keeps_the_structure() -> None:
    config = QFormerAdapter.Config(
        num_queries=64, window_seconds=None, query_norm=False, output_norm=True, num_layers=6
    )
    tiny = QFormerAdapter.tiny_config(config)
    assert (tiny.num_queries, tiny.num_layers, tiny.hidden_dim) == (4, 2, 32)
    assert (tiny.window_seconds, tiny.query_norm, tiny.output_norm) == (None, False, True)


def test_shard_classes() -> None:
    assert build().shard_classes() == {QFormerLayer}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_queries": 0}, "num_queries: must be at least 1, not 0"),
        ({"cross_attention_frequency": 0}, "cross_attention_frequency: must be at least 1, not 0"),
        ({"num_layers": 0}, "num_layers: must be at least 1, not 0"),
        ({"ffn_dim": 0}, "ffn_dim: must be at least 1, not 0"),
        ({"num_heads": 5}, r"num_heads \(5\) must divide hidden_dim \(768\)"),
        ({"dropout": 1.0}, "dropout: must be at least 0 and below 1, not 1.0"),
        ({"window_seconds": 0.0}, "window_seconds: must be above 0, not 0.0"),
        ({"remainder": "cut"}, "remainder: 'cut' is not one of"),
        ({"remainder": "drop", "window_seconds": None}, "remainder is read only with window_seconds"),
        ({"remainder": "pad", "window_seconds": None}, "remainder is read only with window_seconds"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QFormerAdapter.Config(**options)


def test_refuses_windows_below_a_frame() -> None:
    with pytest.raises(ValueError, match=r"window_seconds \(0.005\) is less than half a frame: .* 50 frames"):
        build(window_seconds=0.005)
