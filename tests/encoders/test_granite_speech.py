"""Granite-Speech's encoder against transformers' own modules, with small random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GraniteSpeechEncoderConfig, GraniteSpeechFeatureExtractor
from transformers.models.granite_speech.modeling_granite_speech import GraniteSpeechCTCEncoder as Reference

from kikimimi import Padded, WeightsError
from kikimimi.testing import Check, parametrize_checks
from kikimimi_encoders.granite_speech import GraniteSpeechEncoder, Sizes

Config = GraniteSpeechEncoder.Config
SMALL: dict[str, Any] = {
    "num_layers": 4,
    "hidden_dim": 32,
    "feedforward_mult": 2,
    "num_heads": 2,
    "output_dim": 12,
    "conv_kernel_size": 5,
}
LENGTHS = (257, 400, 800, 16_000, 48_160)


def noise(length: int) -> Tensor:
    # Louder towards its end, so that what padding does to the maximum shows.
    wave = torch.randn(length, generator=torch.Generator().manual_seed(length))
    return wave * torch.linspace(0.01, 0.3, length)


def reference(**sizes: Any) -> Any:
    torch.manual_seed(0)
    model = Reference(GraniteSpeechEncoderConfig(**{**SMALL, **sizes})).eval()
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.add_(0.1 * torch.rand(value.shape))
    return model


def save(folder: Path, model: Any, prefix: str = "", **config: Any) -> str:
    """Save with what the names of a whole model's tensors begin with, or as an encoder alone."""
    folder.mkdir()
    written = {**model.config.to_dict(), **config}
    if prefix:
        written = {"model_type": "granite_speech", "encoder_config": written}
    (folder / "config.json").write_text(json.dumps(written))
    GraniteSpeechFeatureExtractor().save_pretrained(folder)
    others = {"projector.query": torch.zeros(1)} if prefix else {}
    state = {prefix + name: value.clone() for name, value in model.state_dict().items()}
    save_file({**state, **others}, folder / "model.safetensors")
    return str(folder)


def load(weights: str, **options: Any) -> GraniteSpeechEncoder:
    encoder = GraniteSpeechEncoder(Config(weights=weights, **options)).eval()
    encoder.load_weights()
    return encoder


def features(clip: Tensor) -> Tensor:
    mel: Tensor = GraniteSpeechFeatureExtractor()([clip])["input_features"]
    return mel


@parametrize_checks(
    GraniteSpeechEncoder,
    layers=Config(
        weights="random",
        layers=[0, 1, 2],
        sizes=Sizes(num_layers=2, kernel_size=4, max_distance=10, block_frames=10, dropout=0.0),
    ),
)
def test_keeps_the_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.encoder."])
def test_equals_transformers(tmp_path: Path, prefix: str) -> None:
    model = reference()
    encoder = load(save(tmp_path / "weights", model, prefix))
    with torch.inference_mode():
        for length in LENGTHS:
            clip = noise(length)
            expected = model(features(clip)).last_hidden_state
            found = encoder(Padded.stack([clip]))
            assert found.values.shape == expected.shape
            assert found.lengths.tolist() == [encoder.num_frames(length)] == [expected.shape[1]]
            torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-5)


def test_a_batch_is_its_clips_each_alone(tmp_path: Path) -> None:
    model = reference()
    encoder = load(save(tmp_path / "weights", model))
    clips = [noise(length) for length in LENGTHS]
    with torch.inference_mode():
        together = encoder(Padded.stack(clips)).unstack()
        for clip, found in zip(clips, together, strict=True):
            expected = model(features(clip)).last_hidden_state[0]
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        # What the reference makes of such a batch is another matter.
        mel = GraniteSpeechFeatureExtractor()([*clips])["input_features"]
        assert (model(mel).last_hidden_state[3, :50] - together[3]).abs().max() > 1e-3


def test_what_comes_after_a_clip_has_no_part_in_its_maximum(tmp_path: Path) -> None:
    model = reference()
    encoder = load(save(tmp_path / "weights", model))
    # A click at the very end: beside a longer clip, the frame after the last one would be the loudest.
    clip = 1e-3 * noise(159 + 50 * 160)
    clip[-1] = 1.0
    with torch.inference_mode():
        found = encoder(Padded.stack([clip, noise(16_000)])).unstack()[0]
        expected = model(features(clip)).last_hidden_state[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("frames", [199, 200, 201, 400, 401])
def test_edges_of_blocks(tmp_path: Path, frames: int) -> None:
    model = reference(num_layers=1)
    encoder = load(save(tmp_path / "weights", model))
    clip = noise((2 * frames - 1) * 160)
    with torch.inference_mode():
        found = encoder(Padded.stack([clip, noise(9_000)])).unstack()[0]
        expected = model(features(clip)).last_hidden_state[0]
    assert len(found) == len(expected) == frames
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1, 160, 256])
def test_a_very_short_clip_has_silence_after_it(tmp_path: Path, length: int) -> None:
    model = reference()
    encoder = load(save(tmp_path / "weights", model))
    with pytest.raises(RuntimeError, match=r"Padding size should be less|invalid slice"):
        features(noise(length))
    with torch.inference_mode():
        found = encoder(Padded.stack([noise(length)]))
        silence = torch.nn.functional.pad(noise(length), (0, 257 - length))
        expected = model(features(silence)).last_hidden_state
    assert found.lengths.tolist() == [encoder.num_frames(length)] == [1]
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_layers_are_those_of_the_reference(tmp_path: Path, prefix: str) -> None:
    model = reference()
    weights, clip = save(tmp_path / "weights", model, prefix), noise(16_000)
    seen: list[Tensor] = []
    for layer in model.layers:
        # What enters a layer left the one before it: after the second, with what CTC would write.
        layer.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    with torch.inference_mode():
        model(features(clip))
        for chosen in ([0, 1], [1, 2, 3]):
            found = load(weights, layers=chosen)(Padded.stack([clip])).values
            expected = torch.cat([seen[number] for number in chosen], dim=-1)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_nothing_is_built_that_is_not_read(tmp_path: Path) -> None:
    weights = save(tmp_path / "weights", reference())
    names = {name.split(".")[0] for name, _ in load(weights, layers=[1]).model.named_parameters()}
    assert names == {"input_linear", "layers"}
    names = {name.split(".")[0] for name, _ in load(weights, layers=[2]).model.named_parameters()}
    assert names == {"input_linear", "layers", "out", "out_mid"}


def test_training_takes_statistics_from_real_frames_alone() -> None:
    encoder = GraniteSpeechEncoder(
        Config(weights="random", sizes=Sizes(dim=32, num_layers=1, num_heads=2, ffn_dim=32, dropout=0.0))
    ).train()
    norm = encoder.model.layers[0].conv.batch_norm  # type: ignore[union-attr]
    assert isinstance(norm, torch.nn.BatchNorm1d)
    seen: list[Tensor] = []
    encoder.model.layers[0].conv.depth_conv.register_forward_hook(  # type: ignore[union-attr]
        lambda module, given, result: seen.append(result.detach())
    )
    clips = [noise(4_800), noise(16_000)]
    encoder(Padded.stack(clips))
    lengths = [encoder.num_frames(len(clip)) for clip in clips]
    # (B, channels, F) -> (frames, channels)
    frames = torch.cat([row.T[:length] for row, length in zip(seen[0], lengths, strict=True)])
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, 0.1 * frames.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * frames.var(0))


def test_it_has_as_many_parameters_as_the_reference() -> None:
    with torch.device("meta"):
        encoder = GraniteSpeechEncoder(Config(weights="random"))
        model = Reference(GraniteSpeechEncoderConfig(num_layers=16, output_dim=256))
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == sum(parameter.numel() for parameter in model.parameters())
    assert (encoder.dim, encoder.frame_rate) == (1024, 50.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "granite"},
            "is a 'granite' model; encoder 'granite_speech' takes 'granite_speech_enc",
        ),
        ({"num_layers": 0}, "num_layers: must be between 1 and 1000, not 0"),
        ({"input_dim": 161}, r"input_dim \(161\) is not that of 2 mel frames"),
        ({"context_size": 600}, r"context_size \(600\) must be between 1 and max_pos_emb \(512\)"),
        ({"input_dim": 256}, "n_mels is 80, and encoder 'granite_speech' takes only 128"),
    ],
)
def test_refuses_other_models(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load(save(tmp_path / "other", reference(), **config))


def test_the_front_end_may_stand_in_the_processors_file(tmp_path: Path) -> None:
    weights = save(tmp_path / "other", reference())
    path = tmp_path / "other" / "preprocessor_config.json"
    written = {"audio_processor": {**json.loads(path.read_text()), "melspec_kwargs": {"n_fft": 400}}}
    path.rename(path.with_name("processor_config.json")).write_text(json.dumps(written))
    with pytest.raises(WeightsError, match=r"audio_processor: melspec_kwargs: n_fft is 400, .* only 512"):
        load(weights)


def test_refuses_a_model_without_an_encoder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "granite_speech"}))
    with pytest.raises(WeightsError, match=r"config\.json: encoder_config is missing"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ffn_dim": 1000}, r"sizes.ffn_dim \(1000\) must be a multiple of sizes.dim \(1024\)"),
        ({"block_frames": 600}, r"sizes.block_frames \(600\) must be at most sizes.max_distance \(512\)"),
        ({"num_heads": 3}, r"sizes.num_heads \(3\) must divide sizes.dim \(1024\)"),
    ],
)
def test_refuses_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sizes(**options)
