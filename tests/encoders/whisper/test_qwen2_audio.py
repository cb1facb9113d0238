from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3EncoderConfig,
    AudioFlamingo3ForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2Config,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder as Reference

from kikimimi import AdapterContext, AudioError, Padded, WeightsError
from kikimimi.testing import Check, parametrize_checks
from kikimimi_adapters.mlp import MLPAdapter
from kikimimi_encoders.spec_augment import SpecAugment
from kikimimi_encoders.whisper.layers import average_pairs
from kikimimi_encoders.whisper.whisper import Qwen2AudioEncoder, Qwen2AudioSizes

Config = Qwen2AudioEncoder.Config
NUM_LAYERS = 3
WINDOW = 480_000
LENGTHS = (16_000, 641, 79_999, 15_700, 960, WINDOW)


@parametrize_checks(
    Qwen2AudioEncoder,
    taps=Config(layers=[0, 1], spec_augment=SpecAugment()),
    weighted=Config(layers=[1, 2], combine="weighted_sum"),
    windows=Config(windows=3, pad="window"),
)
def test_contract(check: Check) -> None:
    check()


def noise(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1


CLIPS = [noise(length) for length in LENGTHS]


def encoder_config(num_mels: int = 128) -> Qwen2AudioEncoderConfig:
    return Qwen2AudioEncoderConfig(
        d_model=32,
        encoder_layers=NUM_LAYERS,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        num_mel_bins=num_mels,
    )


def reference(num_mels: int = 128) -> Any:
    torch.manual_seed(1)
    model = Reference(encoder_config(num_mels)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def run_reference(model: Any, clips: list[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Run transformers' encoder as `Qwen2AudioModel` does, under its mask of unequal lengths.

    Returns:
        The hidden states, the last one pooled and normed, and the lengths at 25 Hz.
    """
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    features = extractor(
        [clip.numpy() for clip in clips],
        sampling_rate=16_000,
        return_attention_mask=True,
        return_tensors="pt",
    )
    mel = features["input_features"]
    encoded, pooled = model._get_feat_extract_output_lengths(features["attention_mask"].sum(-1))
    longest = (mel.shape[-1] - 2) // 2 + 1
    mask = create_bidirectional_mask(
        config=model.config,
        inputs_embeds=torch.zeros(len(clips), longest, 1),
        attention_mask=(torch.arange(longest) < encoded[:, None]).long(),
    )
    with torch.inference_mode():
        out = model(mel, attention_mask=mask, output_hidden_states=True)
    return list(out.hidden_states), pooled.tolist()


def build(**options: Any) -> Qwen2AudioEncoder:
    torch.manual_seed(0)
    encoder = Qwen2AudioEncoder(Config(**options)).eval()
    encoder.load_weights()
    return encoder


def encode(encoder: Qwen2AudioEncoder, clips: list[Tensor]) -> list[Tensor]:
    with torch.inference_mode():
        out: Padded = encoder(Padded.stack(clips))
    return out.unstack()


def saved(folder: Path, num_mels: int = 128) -> tuple[Any, str]:
    model = reference(num_mels)
    model.save_pretrained(folder)
    return model, str(folder)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_window_mode_equals_transformers_at_unequal_lengths(tmp_path: Path, num_mels: int) -> None:
    model, folder = saved(tmp_path / "w", num_mels)
    expected, lengths = run_reference(model, CLIPS)
    encoder = build(weights=folder, pad="window")
    found = encode(encoder, CLIPS)
    assert [len(clip) for clip in found] == lengths
    # 50 frames become 25, three become one, 250 become 125, 50 become 25, three become one, 1500 become 750.
    assert lengths == [25, 1, 125, 25, 1, 750]
    for clip, frames in enumerate(found):
        torch.testing.assert_close(frames, expected[-1][clip, : len(frames)], rtol=0, atol=1e-5)


def test_every_layer_equals_the_pooled_layer_of_transformers(tmp_path: Path) -> None:
    model, folder = saved(tmp_path / "w")
    clips = CLIPS[:4]
    expected, _ = run_reference(model, clips)
    assert len(expected) == NUM_LAYERS + 1
    for layer in range(NUM_LAYERS):
        encoder = build(weights=folder, pad="window", layers=[layer])
        assert len(encoder.model.layers) == layer
        pooled = F.avg_pool1d(expected[layer].transpose(1, 2), 2).transpose(1, 2)
        for clip, found in enumerate(encode(encoder, clips)):
            torch.testing.assert_close(found, pooled[clip, : len(found)], rtol=0, atol=1e-5)
    both = build(weights=folder, pad="window", layers=[1, NUM_LAYERS])
    for clip, found in enumerate(encode(both, clips)):
        torch.testing.assert_close(found[:, 32:], expected[-1][clip, : len(found)], rtol=0, atol=1e-5)


def test_unpadded_mode_equals_transformers_modules_on_the_short_clip(tmp_path: Path) -> None:
    model, folder = saved(tmp_path / "w")
    clip = noise(16_200)  # 102 frames of 10 ms, 51 of 20 ms: an odd one
    mel = WhisperFeatureExtractor(feature_size=128)(clip.numpy(), sampling_rate=16_000, return_tensors="pt")[
        "input_features"
    ][..., :102]
    with torch.inference_mode():
        hidden = F.gelu(model.conv2(F.gelu(model.conv1(mel)))).transpose(1, 2)
        hidden = hidden + model.embed_positions.weight[:51]
        for layer in model.layers:
            hidden = layer(hidden, None)
        expected = model.layer_norm(model.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2))
    (found,) = encode(build(weights=folder), [clip])
    assert len(found) == 25
    torch.testing.assert_close(found, expected[0], rtol=0, atol=1e-5)


def test_pairs_by_hand() -> None:
    frames = torch.tensor([[1.0], [3.0], [9.0], [7.0], [2.0], [4.0]])
    assert average_pairs(frames, [3, 1, 2]).flatten().tolist() == [2.0, 7.0, 3.0]
    assert average_pairs(frames, [2, 4]).flatten().tolist() == [2.0, 8.0, 3.0]


def of_whole_window(**options: Any) -> Qwen2AudioEncoder:
    tiny: Any = Qwen2AudioEncoder.tiny_config(Config(**options))
    return Qwen2AudioEncoder(replace(tiny, sizes=replace(tiny.sizes, num_positions=1500))).eval()


@pytest.mark.parametrize(
    ("num_samples", "num_frames"),
    [(0, 1), (320, 1), (640, 1), (960, 1), (961, 2), (1_280, 2), (16_000, 25), (16_001, 25), (WINDOW, 750)],
)
@pytest.mark.parametrize("pad", ["none", "window"])
def test_num_frames(num_samples: int, num_frames: int, pad: str) -> None:
    encoder = of_whole_window(pad=pad)
    assert encoder.num_frames(num_samples) == num_frames
    with torch.inference_mode():
        out = encoder(Padded(torch.zeros(1, max(1, num_samples)), torch.tensor([num_samples])))
    assert out.lengths.tolist() == [num_frames]
    assert out.values.shape == (1, num_frames, 32)


def test_loads_the_whole_model_and_its_encoder_alone(tmp_path: Path) -> None:
    config = Qwen2AudioConfig(
        audio_config=encoder_config().to_dict(),
        text_config=Qwen2Config(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=16,
            vocab_size=32,
        ).to_dict(),
        audio_token_index=5,
    )
    torch.manual_seed(3)
    whole = Qwen2AudioForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path / "whole")
    tower: Any = whole.model.audio_tower
    tower.save_pretrained(tmp_path / "tower")
    expected, _ = run_reference(tower, CLIPS[:2])
    for name in ("whole", "tower"):
        encoder = build(weights=str(tmp_path / name), pad="window")
        assert encoder.pretrained_names() == {key for key, _ in encoder.named_parameters()}
        for clip, found in enumerate(encode(encoder, CLIPS[:2])):
            torch.testing.assert_close(found, expected[-1][clip, : len(found)], rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["audio_tower.", "model.audio_tower."])
def test_loads_the_published_names_and_those_in_memory(tmp_path: Path, prefix: str) -> None:
    model = reference()
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "qwen2_audio", "audio_config": model.config.to_dict()})
    )
    state = {prefix + name: value.contiguous() for name, value in model.state_dict().items()}
    save_file({**state, "language_model.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    encoder = build(weights=str(tmp_path))
    for name, value in model.state_dict().items():
        assert torch.equal(encoder.model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "bert"},
            "is a 'bert' model; encoder 'qwen2_audio' takes 'qwen2_audio_encoder', .*alone or inside",
        ),
        ({"model_type": "qwen2_audio"}, "config.json: audio_config is missing"),
        ({"model_type": "qwen2_audio_encoder", "activation_function": "relu"}, "is not a plain Whisper"),
    ],
)
def test_refuses_other_models(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        build(weights=str(tmp_path))


def test_begins_from_a_whisper(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "d_model": 16,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
    }
    decoder: dict[str, Any] = {
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 24,
        "vocab_size": 60,
    }
    tokens: dict[str, Any] = {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }
    config = WhisperConfig(**sizes, **decoder, **tokens, num_mel_bins=128)
    whisper = WhisperForConditionalGeneration(config)
    whisper.save_pretrained(tmp_path)
    encoder = build(weights=str(tmp_path))
    assert (encoder.dim, encoder.sizes.num_mels, encoder.frame_rate) == (16, 128, 25.0)
    for name, value in whisper.model.encoder.state_dict().items():
        assert torch.equal(encoder.model.state_dict()[name], value)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    _, folder = saved(tmp_path / "w")
    path = tmp_path / "w" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "encoder_layers": NUM_LAYERS + 1}))
    with pytest.raises(WeightsError, match=r"missing: layers\.3\.self_attn\.q_proj\.weight"):
        build(weights=folder)


def test_a_longer_clip_is_refused() -> None:
    message = (
        r"clip 0 of the batch lasts 30.00 s \(480001 samples\), and encoder 'qwen2_audio' takes at most 30"
    )
    encoder = of_whole_window()
    with pytest.raises(AudioError, match=message):
        encoder(Padded.stack([torch.zeros(WINDOW + 1)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sizes": Qwen2AudioSizes()},
            "sizes is read only with weights: random, not with 'Qwen/Qwen2-Audio-7B'",
        ),
        ({"pad": "longest"}, "pad: 'longest' is not one of none, window"),
        ({"combine": "weighted_sum"}, "combine is read only with two or more layers"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_constants_and_full_size() -> None:
    with torch.device("meta"):
        encoder = Qwen2AudioEncoder(Config(weights="random"))
        expected = Reference(Qwen2AudioEncoderConfig())
    assert (encoder.sample_rate, encoder.frame_rate, encoder.max_seconds, encoder.dim) == (
        16_000,
        25.0,
        30.0,
        1280,
    )
    shapes = {key: tuple(value.shape) for key, value in encoder.model.state_dict().items()}
    assert shapes == {key: tuple(value.shape) for key, value in expected.state_dict().items()}
    assert round(sum(parameter.numel() for parameter in encoder.parameters()) / 1e6, 1) == 637.0


def test_masks_act_in_training_only() -> None:
    masked = Qwen2AudioEncoder(Qwen2AudioEncoder.tiny_config(Config(spec_augment=SpecAugment()))).eval()
    first = encode(masked, CLIPS[:2])
    assert torch.equal(first[0], encode(masked, CLIPS[:2])[0])
    assert masked.augmentation is not None
    masked.augmentation.train()
    torch.manual_seed(0)
    assert not torch.equal(first[0], encode(masked, CLIPS[:2])[0])


def test_windows_equal_audio_flamingo_3() -> None:
    """Encoder and projector, on what its processor makes of clips of one to three windows."""
    torch.manual_seed(3)
    tower = AudioFlamingo3EncoderConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    text: Any = {"model_type": "qwen2", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 2, "intermediate_size": 16, "vocab_size": 20}
    config = AudioFlamingo3Config(audio_config=tower, text_config=text, audio_token_id=5)
    model = AudioFlamingo3ForConditionalGeneration(config).eval()
    sizes = Qwen2AudioSizes(dim=32, num_layers=2, num_heads=2, ffn_dim=64)
    encoder = Qwen2AudioEncoder(Config(weights="random", sizes=sizes, pad="window", windows=3)).eval()
    encoder.model.load_state_dict(model.model.audio_tower.state_dict())
    context = AdapterContext(in_dim=32, out_dim=24, frame_rate=25.0)
    adapter = MLPAdapter(MLPAdapter.Config(downsample=1, bias=True), context).eval()
    projector = model.model.multi_modal_projector
    adapter.mlp[0].load_state_dict(projector.linear_1.state_dict())
    adapter.mlp[2].load_state_dict(projector.linear_2.state_dict())

    lengths = [16_000, WINDOW, WINDOW + 1, WINDOW + 400, 2 * WINDOW, 2 * WINDOW + 79_999]
    clips = [noise(length) for length in lengths]
    extractor = WhisperFeatureExtractor(feature_size=128)
    with torch.inference_mode():
        tokens = adapter(encoder(Padded.stack(clips))).tokens
        for row, length, clip in zip(tokens.values, tokens.lengths.tolist(), clips, strict=True):
            pieces = [piece.numpy() for piece in torch.split(clip, WINDOW)]
            made = extractor(pieces, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt")
            features, mask = made["input_features"], made["attention_mask"]
            expected = model.get_audio_features(features, mask).pooler_output
            assert length == len(expected) == encoder.num_frames(len(clip))
            torch.testing.assert_close(row[:length], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pad", ["none", "window"])
def test_a_long_clip_is_its_windows_one_after_the_other(pad: Literal["none", "window"]) -> None:
    sizes = replace(Qwen2AudioSizes(), dim=32, num_layers=2, num_heads=2, ffn_dim=64, num_positions=50)
    encoder = Qwen2AudioEncoder(Config(weights="random", sizes=sizes, pad=pad, windows=3)).eval()
    clip = noise(40_000)
    with torch.inference_mode():
        whole = encoder(Padded.stack([clip, clip[:8_000]]))
        alone = [encoder(Padded.stack([piece])).values[0] for piece in torch.split(clip, 16_000)]
    assert whole.lengths.tolist() == [62, 12]
    torch.testing.assert_close(whole.values[0], torch.cat(alone), rtol=0, atol=1e-5)
    with pytest.raises(AudioError, match=r"takes at most 3.00 s .* how many windows of 1 s a clip may be"):
        encoder(Padded.stack([noise(48_001)]))
