"""The encoders `hubert`, `wavlm` and `wav2vec2`, which share all but their layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from kikimimi import Padded, WeightsError
from kikimimi.testing import Check, list_checks, parametrize_checks
from kikimimi_encoders.ssl.family import HubertEncoder, Sizes, SSLEncoder, Wav2Vec2Encoder
from kikimimi_encoders.ssl.masking import MaskingConfig, SpanMasking, spans
from kikimimi_encoders.ssl.wavlm import WavLMEncoder

FAMILY: dict[str, tuple[Any, Any, Any]] = {
    "hubert": (HubertEncoder, HubertConfig, HubertModel),
    "wavlm": (WavLMEncoder, WavLMConfig, WavLMModel),
    "wav2vec2": (Wav2Vec2Encoder, Wav2Vec2Config, Wav2Vec2Model),
}
LARGE = Sizes(conv_norm="layer", pre_norm=True)
SAMPLES = (4_000, 400, 16_000, 7_123)


def noise(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1 + 0.02


def reference(name: str, *, large: bool, **options: Any) -> Any:
    _, config_class, model_class = FAMILY[name]
    config = config_class(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=[16] * 7,
        conv_bias=large,
        feat_extract_norm="layer" if large else "group",
        do_stable_layer_norm=large,
        num_conv_pos_embedding_groups=4,
        # Bias buckets as narrow as the test's clips are short.
        **({"num_buckets": 8, "max_bucket_distance": 16} if name == "wavlm" else {}),
        **options,
    )
    torch.manual_seed(1)
    model = model_class(config).eval()
    with torch.no_grad():
        # Norms and biases that start at 1 and 0 would hide a mistake.
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def save(folder: Path, model: Any, *, prefix: str = "", normalise: bool | None = False) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(model.config.to_json_string(use_diff=False))
    if normalise is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": normalise}))
    state = {prefix + name: value.contiguous() for name, value in model.state_dict().items()}
    if prefix:
        state["lm_head.weight"] = torch.zeros(4, 32)
    save_file(state, folder / "model.safetensors")
    return str(folder)


def load(name: str, weights: str, **options: Any) -> SSLEncoder:
    cls = FAMILY[name][0]
    encoder: SSLEncoder = cls(cls.Config(weights=weights, **options)).eval()
    encoder.load_weights()
    return encoder


def masked_checks() -> list[Any]:
    """All but the one that wants a gradient of the mask's vector in eval mode, where nothing is masked."""
    config = Wav2Vec2Encoder.Config(mask_time_prob=0.65, mask_feature_prob=0.25, mask_feature_length=4)
    checks = list_checks("encoder", Wav2Vec2Encoder, config)
    return [
        pytest.param(check, id=check.name)
        for check in checks
        if check.name != "gradients_reach_every_parameter"
    ]


@parametrize_checks(HubertEncoder, large=HubertEncoder.Config(weights="random", sizes=LARGE))
def test_hubert_keeps_the_contract(check: Check) -> None:
    check()


@parametrize_checks(
    WavLMEncoder,
    weighted=WavLMEncoder.Config(
        weights="random", sizes=LARGE, layers=[0, 1, 2], combine="weighted_sum", normalise=False
    ),
)
def test_wavlm_keeps_the_contract(check: Check) -> None:
    check()


@parametrize_checks(
    Wav2Vec2Encoder,
    trained_convolutions=Wav2Vec2Encoder.Config(freeze_feature_extractor=False, layers=[0, 9]),
)
def test_wav2vec2_keeps_the_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("check", masked_checks())
def test_masks_keep_the_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
@pytest.mark.parametrize("name", FAMILY)
def test_layers_equal_those_of_transformers(tmp_path: Path, name: str, large: bool) -> None:
    model = reference(name, large=large)
    encoder = load(name, save(tmp_path / "model", model), layers=[0, 1, 2, 3])
    clips = [noise(length) for length in SAMPLES]
    with torch.inference_mode():
        out = encoder(Padded.stack(clips))
        assert out.lengths.tolist() == [12, 1, 49, 22]
        assert out.values.shape == (4, 49, 4 * 32)
        for clip, found in zip(clips, out.unstack(), strict=True):
            expected = model(clip[None], output_hidden_states=True)
            hidden = torch.stack([*expected.hidden_states[:3], expected.last_hidden_state], dim=2)
            torch.testing.assert_close(found.unflatten(-1, (4, 32)), hidden[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_a_batch_equals_that_of_transformers(tmp_path: Path, name: str) -> None:
    """Layer-normed models take batches with a mask; in float64, as quiet clips lose digits in float32."""
    model = reference(name, large=True)
    encoder = load(name, save(tmp_path / "model", model)).double()
    audio = Padded.stack([noise(length) for length in SAMPLES])
    with torch.inference_mode(), pytest.warns() if name == "wavlm" else torch.inference_mode():
        expected = model.double()(audio.values.double(), attention_mask=audio.mask().long()).last_hidden_state
    with torch.inference_mode():
        for i, found in enumerate(encoder(audio).unstack()):
            torch.testing.assert_close(found, expected[i, : len(found)], rtol=0, atol=1e-9)


@pytest.mark.parametrize("large", [False, True], ids=["base", "large"])
def test_layers_above_the_highest_are_neither_built_nor_loaded(tmp_path: Path, large: bool) -> None:
    model = reference("hubert", large=large)
    encoder = load("hubert", save(tmp_path / "model", model), layers=[2])
    assert len(encoder.model.layers) == 2
    assert (encoder.model.layer_norm is None) is large
    clip = noise(4_000)
    with torch.inference_mode():
        expected = model(clip[None], output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(encoder(Padded.stack([clip])).values, expected, rtol=0, atol=1e-5)


def test_weighted_sum_starts_uniform_and_is_no_pretrained_weight(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", reference("wavlm", large=False))
    encoder = load("wavlm", folder, layers=[1, 3], combine="weighted_sum")
    both = load("wavlm", folder, layers=[1, 3])
    audio = Padded.stack([noise(4_000)])
    with torch.inference_mode():
        expected = both(audio).values.unflatten(-1, (2, 32)).mean(2)
        torch.testing.assert_close(encoder(audio).values, expected, rtol=0, atol=1e-6)
    assert {n for n, _ in encoder.named_parameters()} - encoder.pretrained_names() == {"taps.weight"}
    assert (both.dim, both.num_concat_layers, encoder.dim, encoder.num_concat_layers) == (64, 2, 32, 1)


@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize("prefix", ["", "wav2vec2."])
def test_loads_bare_models_and_models_with_heads(tmp_path: Path, prefix: str, old_names: bool) -> None:
    model = reference("wav2vec2", large=False)
    folder = save(tmp_path / "model", model, prefix=prefix)
    if old_names:
        path = tmp_path / "model" / "model.safetensors"
        state = load_file(path)
        weight = f"{prefix}encoder.pos_conv_embed.conv."
        state[weight + "weight_g"] = state.pop(weight + "parametrizations.weight.original0")
        state[weight + "weight_v"] = state.pop(weight + "parametrizations.weight.original1")
        save_file(state, path)
    encoder = load("wav2vec2", folder)
    clip = noise(4_000)
    with torch.inference_mode():
        expected = model(clip[None]).last_hidden_state
        torch.testing.assert_close(encoder(Padded.stack([clip])).values, expected, rtol=0, atol=1e-5)


def test_normalises_each_clip_over_its_real_samples(tmp_path: Path) -> None:
    model = reference("hubert", large=True)
    encoder = load("hubert", save(tmp_path / "model", model, normalise=True))
    clips = [noise(length) for length in SAMPLES]
    inputs = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)(
        [clip.numpy() for clip in clips], sampling_rate=16_000, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        expected = model(**inputs).last_hidden_state
        for i, found in enumerate(encoder(Padded.stack(clips)).unstack()):
            torch.testing.assert_close(found, expected[i, : len(found)], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "large", "stated", "option", "expected"),
    [
        ("hubert", False, True, None, True),
        ("hubert", False, False, None, False),
        ("hubert", False, False, True, True),
        ("hubert", False, True, False, False),
        ("hubert", False, None, None, True),
        ("wav2vec2", True, None, None, True),
        ("wavlm", False, None, None, False),
        ("wavlm", True, None, None, True),
    ],
)
def test_what_decides_whether_clips_are_normalised(
    tmp_path: Path, name: str, large: bool, stated: bool | None, option: bool | None, expected: bool
) -> None:
    folder = save(tmp_path / "model", reference(name, large=large), normalise=stated)
    assert load(name, folder, normalise=option).normalise is expected


@pytest.mark.parametrize(
    ("num_samples", "num_frames"), [(0, 1), (1, 1), (399, 1), (400, 1), (719, 1), (720, 2), (16_000, 49)]
)
def test_num_frames(num_samples: int, num_frames: int) -> None:
    encoder = HubertEncoder(HubertEncoder.tiny_config()).eval()
    assert encoder.num_frames(num_samples) == num_frames
    audio = Padded(torch.ones(1, max(1, num_samples)), torch.tensor([num_samples]))
    with torch.inference_mode():
        out = encoder(audio)
    assert out.lengths.tolist() == [num_frames]
    assert out.values.isfinite().all()


def test_a_short_clip_is_padded_with_silence(tmp_path: Path) -> None:
    model = reference("hubert", large=False)
    encoder = load("hubert", save(tmp_path / "model", model))
    clip = noise(300)
    with torch.inference_mode():
        expected = model(torch.nn.functional.pad(clip, (0, 100))[None]).last_hidden_state
        torch.testing.assert_close(encoder(Padded.stack([clip])).values, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "sizes", "count"),
    [
        # Those of transformers' models at the published sizes, without the vector of the masks.
        ("hubert", Sizes(), 94_371_712 - 768),
        ("wav2vec2", Sizes(), 94_371_712 - 768),
        ("wavlm", Sizes(), 94_381_936 - 768),
        (
            "wavlm",
            Sizes(dim=1024, num_layers=24, num_heads=16, ffn_dim=4096, conv_norm="layer", pre_norm=True),
            None,
        ),
        (
            "hubert",
            Sizes(dim=1024, num_layers=24, num_heads=16, ffn_dim=4096, conv_norm="layer", pre_norm=True),
            None,
        ),
    ],
)
def test_full_size(name: str, sizes: Sizes, count: int | None) -> None:
    cls, config_class, model_class = FAMILY[name]
    with torch.device("meta"):
        encoder = cls(cls.Config(weights="random", sizes=sizes))
        config = config_class(
            hidden_size=sizes.dim,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            intermediate_size=sizes.ffn_dim,
            feat_extract_norm=sizes.conv_norm,
            conv_bias=name != "wavlm" and sizes.conv_norm == "layer",
            do_stable_layer_norm=sizes.pre_norm,
            mask_time_prob=0.0,
        )
        expected = sum(parameter.numel() for parameter in model_class(config).parameters())
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected
    assert count in (None, expected)
    assert (encoder.frame_rate, encoder.dim, encoder.min_samples) == (50.0, sizes.dim, 400)


def test_convolutions_are_constant_unless_told_otherwise() -> None:
    frozen = HubertEncoder(HubertEncoder.tiny_config())
    constant = {name for name, parameter in frozen.named_parameters() if not parameter.requires_grad}
    assert constant == {name for name, _ in frozen.named_parameters() if ".feature_extractor." in name}
    free = HubertEncoder(HubertEncoder.tiny_config(HubertEncoder.Config(freeze_feature_extractor=False)))
    assert all(parameter.requires_grad for parameter in free.parameters())


def test_random_weights_are_drawn_as_transformers_does() -> None:
    torch.manual_seed(0)
    encoder = WavLMEncoder(WavLMEncoder.tiny_config())
    layer: Any = encoder.model.layers[0]
    assert float(layer.feed_forward.intermediate_dense.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not layer.feed_forward.intermediate_dense.bias.any()
    position = encoder.model.pos_conv_embed
    norms = position.weight_v.detach().square().sum(dim=(0, 1)).sqrt()
    torch.testing.assert_close(position.weight_g.detach()[0, 0], norms)


def test_masks_stay_within_the_clips() -> None:
    torch.manual_seed(0)
    masking = SpanMasking(MaskingConfig(mask_time_prob=0.5), 6)
    frames = Padded(torch.zeros(3, 100, 6), torch.tensor([100, 9, 40]))
    out = masking(frames)
    assert masking.masked_spec_embed is not None
    masked = (out == masking.masked_spec_embed).all(-1)
    assert torch.equal(masked, (out != 0).any(-1))
    assert not masked[1].any()  # no span of 10 frames fits
    assert not masked[2, 40:].any()
    assert 20 <= int(masked[0].sum()) <= 50
    out.sum().backward()
    gradient = masking.masked_spec_embed.grad
    assert gradient is not None
    torch.testing.assert_close(gradient, masked.sum().float().expand(6))


def test_channels_are_masked_for_the_whole_clip() -> None:
    torch.manual_seed(0)
    masking = SpanMasking(MaskingConfig(mask_feature_prob=0.25, mask_feature_length=4), 64)
    assert not list(masking.parameters())
    out = masking(Padded(torch.ones(2, 7, 64), torch.tensor([7, 3])))
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert not torch.equal(out[0], out[1])
    assert 4 <= int((out[0, 0] == 0).sum()) <= 16
    assert torch.equal(masking.eval()(Padded(torch.ones(1, 7, 64), torch.tensor([7]))), torch.ones(1, 7, 64))


@pytest.mark.parametrize(
    ("length", "prob", "span", "at_least", "counts"),
    [(100, 0.5, 10, 0, (5, 6)), (100, 0.01, 10, 2, (2,)), (9, 0.9, 10, 2, (0,)), (15, 0.1, 10, 2, (1,))],
)
def test_spans_by_hand(length: int, prob: float, span: int, at_least: int, counts: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for _ in range(20):
        mask = spans(length, 120, prob, span, at_least)
        assert mask.shape == (120,)
        assert not mask[length:].any()
        # Spans may overlap.
        assert (span if max(counts) else 0) <= int(mask.sum()) <= max(counts) * span


def test_masks_act_in_training_only_and_come_from_the_checkpoint(tmp_path: Path) -> None:
    model = reference(
        "wav2vec2", large=False, hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0
    )
    folder = save(tmp_path / "model", model)
    encoder = load("wav2vec2", folder, mask_time_prob=0.65, mask_feature_prob=0.25)
    plain = load("wav2vec2", folder)
    assert plain.augmentation is None
    assert isinstance(encoder.augmentation, SpanMasking)
    assert encoder.augmentation.masked_spec_embed is not None
    assert torch.equal(encoder.augmentation.masked_spec_embed, model.masked_spec_embed)
    audio = Padded.stack([noise(8_000)])
    with torch.no_grad():
        assert torch.equal(encoder(audio).values, plain(audio).values)
        # Frozen, and therefore in eval mode, but for what augments.
        encoder.augmentation.train()
        assert not torch.equal(encoder(audio).values, plain(audio).values)


def test_a_checkpoint_without_the_masks_vector_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", reference("hubert", large=False, mask_time_prob=0.0))
    load("hubert", folder, mask_feature_prob=0.1)
    with pytest.raises(WeightsError, match=r"holds no masked_spec_embed.*Set mask_time_prob to 0"):
        load("hubert", folder, mask_time_prob=0.1)


def test_no_layer_is_dropped_in_training() -> None:
    encoder = HubertEncoder(HubertEncoder.tiny_config()).train()
    audio = Padded.stack([noise(4_000)])
    for _ in range(20):
        encoder.zero_grad(set_to_none=True)
        encoder(audio).values.square().sum().backward()
        assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)


def test_tiny_config_keeps_the_structure() -> None:
    config = WavLMEncoder.Config(
        weights="random", sizes=LARGE, layers=[3, 6, 9, 12], combine="weighted_sum", mask_time_prob=0.3
    )
    tiny = WavLMEncoder.tiny_config(config)
    assert isinstance(tiny, WavLMEncoder.Config)
    assert tiny.sizes is not None
    assert (tiny.sizes.conv_norm, tiny.sizes.pre_norm, tiny.sizes.num_layers) == ("layer", True, 2)
    assert (tiny.layers, tiny.combine, tiny.mask_time_prob) == ([0, 1, 2], "weighted_sum", 0.3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "wavlm"}, "is a 'wavlm' model; encoder 'hubert' takes 'hubert'"),
        ({"conv_pos_batch_norm": True}, "config.json sets conv_pos_batch_norm, which is not built here"),
        ({"add_adapter": True}, "config.json sets add_adapter"),
        ({"hidden_size": "wide"}, "config.json: Validation error for field 'hidden_size'"),
    ],
)
def test_refuses_other_models(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = save(tmp_path / "model", reference("hubert", large=False))
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(WeightsError, match=message):
        HubertEncoder(HubertEncoder.Config(weights=folder))


@pytest.mark.parametrize("normalise", [True, False])
def test_what_the_front_end_does_may_stand_in_the_processors_file(tmp_path: Path, normalise: bool) -> None:
    folder = save(tmp_path / "model", reference("hubert", large=False), normalise=None)
    written = {"feature_extractor": {"do_normalize": normalise}, "processor_class": "Wav2Vec2Processor"}
    (tmp_path / "model" / "processor_config.json").write_text(json.dumps(written))
    assert HubertEncoder(HubertEncoder.Config(weights=folder)).normalise is normalise


def test_refuses_another_sampling_rate(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", reference("hubert", large=False))
    (tmp_path / "model" / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    with pytest.raises(WeightsError, match="takes 8000 Hz, where 16000 Hz are given"):
        HubertEncoder(HubertEncoder.Config(weights=folder))


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", reference("hubert", large=False), prefix="other.")
    with pytest.raises(
        WeightsError, match=r"does not fit SpeechTransformer .*66 missing: feature_extractor\.conv"
    ):
        load("hubert", folder)


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", reference("hubert", large=False))
    with pytest.raises(ValueError, match="layers names layer 4, and the encoder has 3"):
        load("hubert", folder, layers=[4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sizes": Sizes()},
            "sizes is read only with weights: random, not with 'facebook/hubert-base-ls960'",
        ),
        ({"layers": []}, "layers: must not be empty"),
        ({"mask_time_prob": 1.0}, "mask_time_prob: must be at least 0 and below 1, not 1.0"),
        ({"mask_feature_prob": -0.1}, "mask_feature_prob: must be at least 0"),
        ({"mask_time_prob": 0.1, "mask_time_length": 0}, "mask_time_length: must be at least 1, not 0"),
        ({"mask_feature_length": 64}, "mask_feature_length is read only with mask_feature_prob above 0"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HubertEncoder.Config(**options)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_layers": 0}, "num_layers: must be at least 1, not 0"),
        ({"num_heads": 7}, r"sizes.num_heads \(7\) must divide sizes.dim \(768\)"),
        ({"position_groups": 7}, r"sizes.position_groups \(7\) must divide sizes.dim \(768\)"),
        ({"conv_norm": "batch"}, "conv_norm: 'batch' is not one of"),
    ],
)
def test_refuses_sizes(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sizes(**sizes)
