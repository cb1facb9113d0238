from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    ParakeetCTCConfig,
    ParakeetEncoder as Reference,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
)

from kikimimi import Padded, WeightsError
from kikimimi.testing import Check, parametrize_checks
from kikimimi_encoders.log_mel import normalised_log_mel
from kikimimi_encoders.parakeet.model import ConvolutionModule
from kikimimi_encoders.parakeet.parakeet import ParakeetEncoder, Sizes
from kikimimi_encoders.spec_augment import SpecAugment

SAMPLES = (4_000, 400, 16_000, 7_123)


def noise(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1 + 0.02


class Extractor(ParakeetFeatureExtractor):  # type: ignore[misc]
    """transformers' front end, which also keeps what it normalises."""

    def _torch_extract_fbank_features(self, *args: Any, **kwargs: Any) -> Tensor:
        mel: Tensor = super()._torch_extract_fbank_features(*args, **kwargs)
        self.log_mel = mel
        return mel


def reference_mel(clips: list[Tensor], num_mels: int, extractor: Any = None) -> Any:
    extractor = extractor or ParakeetFeatureExtractor(feature_size=num_mels)
    return extractor([clip.numpy() for clip in clips], sampling_rate=16_000, return_tensors="pt")


def small_config(**options: Any) -> Any:
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "subsampling_conv_channels": 8,
    }
    return ParakeetEncoderConfig(**{**sizes, **options})


def shake(model: Any) -> Any:
    """Norms, statistics and biases that start at 1 and 0 would hide a mistake."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point() and value.dim():
                value.add_(0.1 * torch.rand(value.shape))
    return model


def reference(**options: Any) -> Any:
    torch.manual_seed(0)
    model = Reference(small_config(**options)).eval()
    inv_freq = model.encode_positions.inv_freq.clone()
    shake(model).encode_positions.inv_freq.copy_(inv_freq)
    return model


def save(folder: Path, model: Any, prefix: str = "") -> str:
    folder.mkdir()
    (folder / "config.json").write_text(model.config.to_json_string(use_diff=False))
    state = {prefix + name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return str(folder)


def load(weights: str, **options: Any) -> ParakeetEncoder:
    encoder = ParakeetEncoder(ParakeetEncoder.Config(weights=weights, **options)).eval()
    encoder.load_weights()
    return encoder


@parametrize_checks(
    ParakeetEncoder,
    weighted=ParakeetEncoder.Config(
        weights="random",
        layers=[0, 12, 24],
        combine="weighted_sum",
        sizes=Sizes(num_layers=24, kernel_size=3, subsampling=4),
        spec_augment=SpecAugment(freq_width=15),
    ),
)
def test_keeps_the_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("num_mels", [80, 128])
def test_mel_equals_the_feature_extractor(num_mels: int) -> None:
    clips = [noise(length) for length in (*SAMPLES, 320, 15_999)]
    extractor = Extractor(feature_size=num_mels)
    expected = reference_mel(clips, num_mels, extractor)
    mel = normalised_log_mel(Padded.stack(clips), num_mels)
    assert mel.lengths.tolist() == expected["attention_mask"].sum(-1).tolist()
    found = mel.values.transpose(1, 2)
    # Before the division by each band's deviation, which is close to zero where two frames hardly differ.
    frames = zip(extractor.log_mel, mel.lengths.tolist(), strict=True)
    scale = torch.stack([clip[:length].std(0) for clip, length in frames])[:, None]
    expected = expected["input_features"][:, : found.shape[1]].float()
    torch.testing.assert_close(found * scale, expected * scale, rtol=0, atol=3e-5)


def test_silence_has_no_features_and_a_short_clip_has_those_with_silence_after_it() -> None:
    silence = normalised_log_mel(Padded.stack([torch.zeros(4_000), torch.zeros(9_000)]), 80)
    assert not silence.values.any()
    # Zero before the end, so that the preemphasis of the silence after it leaves no echo.
    short = torch.cat([noise(99), torch.zeros(1)])
    found = normalised_log_mel(Padded.stack([short, noise(4_000)]), 80)
    expected = normalised_log_mel(Padded.stack([torch.nn.functional.pad(short, (0, 220))]), 80)
    assert found.lengths.tolist() == [2, 25]
    torch.testing.assert_close(found.values[:1, :, :2], expected.values, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling_factor": 4, "conv_kernel_size": 3, "num_mel_bins": 128, "attention_bias": False}],
    ids=["8x", "4x"],
)
def test_layers_equal_those_of_transformers(tmp_path: Path, options: dict[str, Any]) -> None:
    model = reference(**options)
    encoder = load(save(tmp_path / "model", model), layers=[0, 1, 2, 3])
    clips = [noise(length) for length in SAMPLES]
    inputs = reference_mel(clips, encoder.num_mels)
    with torch.inference_mode():
        out = encoder(Padded.stack(clips))
        expected = model(**inputs, output_hidden_states=True)
    assert out.lengths.tolist() == expected.attention_mask.sum(-1).tolist()
    assert torch.equal(expected.hidden_states[-1], expected.last_hidden_state)
    stacked = torch.stack(expected.hidden_states, dim=2)
    largest = float(stacked.abs().max())
    for i, found in enumerate(out.unstack()):
        wanted = stacked[i, : len(found)]
        torch.testing.assert_close(found.unflatten(-1, (4, 32)), wanted, rtol=0, atol=1e-5 * max(1, largest))


def test_loads_a_model_with_its_head_and_leaves_out_what_is_not_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ParakeetForCTC(ParakeetCTCConfig(encoder_config=small_config(), vocab_size=5, pad_token_id=4))
    model.eval().save_pretrained(tmp_path / "model")
    encoder = load(str(tmp_path / "model"), layers=[2])
    assert len(encoder.model.layers) == 2
    clip = noise(8_000)
    with torch.inference_mode():
        inputs = reference_mel([clip], 80)
        expected = model.encoder(**inputs, output_hidden_states=True).hidden_states[2]
        found = encoder(Padded.stack([clip])).values
    torch.testing.assert_close(found, expected[:, : found.shape[1]], rtol=0, atol=1e-5)
    assert encoder.pretrained_names() == {name for name, _ in encoder.named_parameters()}


def test_batch_norm_counts_real_frames_only() -> None:
    torch.manual_seed(0)
    module = ConvolutionModule(small_config(conv_kernel_size=1)).train().double()
    frames = torch.randn(2, 6, 32, dtype=torch.float64)
    lengths = torch.tensor([6, 2])
    real = torch.arange(6) < lengths[:, None]
    mask = (real[:, None] & real[:, :, None])[:, None]
    out = module(frames, mask)
    norm: Any = module.norm
    statistics = norm.running_mean.clone(), norm.running_var.clone()
    norm.reset_running_stats()
    # Of a kernel of one frame the real frames are a clip of their own.
    alone = module(frames[real][None])
    torch.testing.assert_close(out[real], alone[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(norm.running_mean, statistics[0])
    torch.testing.assert_close(norm.running_var, statistics[1])


def test_a_batch_of_one_frame_trains() -> None:
    encoder = ParakeetEncoder(ParakeetEncoder.tiny_config()).train()
    out = encoder(Padded.stack([noise(400)]))
    assert out.lengths.tolist() == [1]
    out.values.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_training_does_not_depend_on_padding() -> None:
    config = ParakeetEncoder.tiny_config()
    assert config.sizes is not None
    config = replace(config, sizes=replace(config.sizes, dropout=0.0))
    torch.manual_seed(0)
    encoder = ParakeetEncoder(config).train()
    batch = Padded.stack([noise(length) for length in SAMPLES])
    wide = torch.nn.functional.pad(batch.values, (0, 5_000), value=float("nan"))
    with torch.no_grad():
        pairs = zip(encoder(batch).unstack(), encoder(Padded(wide, batch.lengths)).unstack(), strict=True)
        for found, expected in pairs:
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_spec_augment_masks_in_training_only() -> None:
    config = ParakeetEncoder.Config(weights="random", spec_augment=SpecAugment())
    encoder = ParakeetEncoder(ParakeetEncoder.tiny_config(config)).eval()
    assert encoder.augmentation is not None
    audio = Padded.stack([noise(16_000)])
    torch.manual_seed(0)
    with torch.no_grad():
        before = encoder(audio).values
        assert torch.equal(encoder(audio).values, before)
        encoder.augmentation.train()
        assert not torch.equal(encoder(audio).values, before)


@pytest.mark.parametrize(
    ("num_samples", "eight", "four"),
    [(0, 1, 1), (400, 1, 1), (799, 1, 1), (800, 1, 2), (1_440, 2, 3), (16_000, 13, 25), (16_159, 13, 25)],
)
def test_num_frames(num_samples: int, eight: int, four: int) -> None:
    for subsampling, expected in ((8, eight), (4, four)):
        sizes = Sizes(subsampling=subsampling)
        encoder = ParakeetEncoder(
            ParakeetEncoder.tiny_config(ParakeetEncoder.Config(weights="random", sizes=sizes))
        ).eval()
        assert encoder.num_frames(num_samples) == expected
        assert encoder.frame_rate == 100 / subsampling
        audio = Padded(torch.ones(1, max(1, num_samples)), torch.tensor([num_samples]))
        with torch.inference_mode():
            out = encoder(audio)
        assert out.lengths.tolist() == [expected]
        assert out.values.isfinite().all()


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(),
        # Conformers of Llama 3 speech, AudioChatLlama and Phi-4-Multimodal; what is not published is assumed.
        Sizes(num_layers=24, dim=1536, num_heads=24, ffn_dim=6144, subsampling=4),
        Sizes(num_layers=16, dim=512, num_heads=8, ffn_dim=2048, kernel_size=11),
        Sizes(num_layers=24, dim=1024, num_heads=16, ffn_dim=1536, kernel_size=3),
    ],
    ids=["parakeet", "llama3", "audiochatllama", "phi4"],
)
def test_full_size(sizes: Sizes) -> None:
    with torch.device("meta"):
        encoder = ParakeetEncoder(ParakeetEncoder.Config(weights="random", sizes=sizes))
        config = ParakeetEncoderConfig(
            hidden_size=sizes.dim,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            intermediate_size=sizes.ffn_dim,
            conv_kernel_size=sizes.kernel_size,
            subsampling_factor=sizes.subsampling,
        )
        expected = sum(parameter.numel() for parameter in Reference(config).parameters())
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected
    if sizes == Sizes():
        assert round(expected / 1e9, 2) == 1.06
    assert (encoder.dim, encoder.frame_rate) == (sizes.dim, 100 / sizes.subsampling)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "is a 'llama' model; encoder 'parakeet' takes 'parakeet_ctc', 'parakeet_r"),
        ({"model_type": "parakeet_tdt"}, "config.json has no encoder_config"),
        ({"hidden_size": "wide"}, "config.json: Validation error for field 'hidden_size'"),
    ],
)
def test_refuses_other_models(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = save(tmp_path / "model", reference())
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(WeightsError, match=message):
        ParakeetEncoder(ParakeetEncoder.Config(weights=folder))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("n_fft", 400, "n_fft is 400, and encoder 'parakeet' takes only 512"),
        ("feature_size", 128, "feature_size is 128, and encoder 'parakeet' takes only 80"),
    ],
)
def test_refuses_another_front_end(tmp_path: Path, option: str, value: int, message: str) -> None:
    folder = save(tmp_path / "model", reference())
    path = tmp_path / "model" / "preprocessor_config.json"
    ParakeetFeatureExtractor().save_pretrained(tmp_path / "model")
    load(folder)
    front_end = {**json.loads(path.read_text()), option: value}
    path.write_text(json.dumps(front_end))
    with pytest.raises(WeightsError, match=f"preprocessor_config.json: {message}"):
        load(folder)
    path.rename(path.with_name("processor_config.json")).write_text(
        json.dumps({"feature_extractor": front_end})
    )
    with pytest.raises(WeightsError, match=f"processor_config.json: feature_extractor: {message}"):
        load(folder)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", reference(), prefix="other.")
    with pytest.raises(WeightsError, match=r"does not fit FastConformer .*missing: subsampling\.layers\.0"):
        load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": Sizes()}, "sizes is read only with weights: random, not with 'nvidia/parakeet-ctc-1.1b'"),
        ({"layers": [2, 1]}, "layers: must be .*ascending"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParakeetEncoder.Config(**options)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_layers": 0}, "num_layers: must be at least 1, not 0"),
        ({"num_heads": 7}, r"sizes.num_heads \(7\) must divide sizes.dim \(1024\)"),
        ({"dim": 33, "num_heads": 3}, "dim: must be at least 2 and a multiple of 2"),
        ({"kernel_size": 8}, "kernel_size: must be at least 1 and odd, not 8"),
        ({"subsampling": 6}, "subsampling: must be at least 2 and a power of 2, not 6"),
        ({"num_mels": 84}, r"sizes.num_mels \(84\) must be a multiple of sizes.subsampling \(8\)"),
        ({"dropout": 1.0}, "dropout: must be at least 0 and below 1, not 1.0"),
    ],
)
def test_refuses_sizes(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sizes(**sizes)
