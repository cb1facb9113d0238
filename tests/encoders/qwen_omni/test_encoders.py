"""The encoders of Qwen2.5-Omni and Qwen3-Omni against transformers' own, with small random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniAudioEncoderConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeAudioEncoderConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeAudioEncoder

from kikimimi import AudioError, Padded, WeightsError
from kikimimi.testing import Check, parametrize_checks
from kikimimi_encoders.qwen_omni.qwen2_5 import Qwen2_5OmniEncoder, Sizes
from kikimimi_encoders.qwen_omni.qwen3 import Qwen3OmniEncoder, Sizes as Qwen3Sizes

NUM_LAYERS = 3
ENCODERS: dict[str, Any] = {"qwen2_5_omni": Qwen2_5OmniEncoder, "qwen3_omni": Qwen3OmniEncoder}
TYPES = {"qwen2_5_omni": "qwen2_5_omni", "qwen3_omni": "qwen3_omni_moe"}
EDGES = {
    "qwen2_5_omni": (479, 641, 15_999, 31_840, 31_841, 32_000, 32_001, 32_321, 64_160, 50_003),
    "qwen3_omni": (201, 1_600, 15_999, 16_000, 16_159, 16_160, 31_999, 32_000, 50_003, 128_000, 144_161),
}
"""Lengths about the ends of chunks (200 and 100 mel frames), and of windows of eight chunks."""


@parametrize_checks(
    Qwen2_5OmniEncoder,
    taps=Qwen2_5OmniEncoder.Config(layers=[0, 1]),
    weighted=Qwen2_5OmniEncoder.Config(layers=[1, 2], combine="weighted_sum"),
)
def test_contract_of_qwen2_5(check: Check) -> None:
    check()


@parametrize_checks(
    Qwen3OmniEncoder,
    taps=Qwen3OmniEncoder.Config(layers=[0, 1]),
    weighted=Qwen3OmniEncoder.Config(layers=[1, 2], combine="weighted_sum"),
)
def test_contract_of_qwen3(check: Check) -> None:
    check()


def noise(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1


def config(name: str, **options: Any) -> Any:
    sizes: dict[str, Any] = {
        "d_model": 32,
        "encoder_layers": NUM_LAYERS,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "output_dim": 24,
        **options,
    }
    if name == "qwen2_5_omni":
        return Qwen2_5OmniAudioEncoderConfig(**sizes)
    return Qwen3OmniMoeAudioEncoderConfig(**{"downsample_hidden_size": 8, **sizes})


def reference(name: str) -> Any:
    torch.manual_seed(1)
    tower: Any = Qwen2_5OmniAudioEncoder if name == "qwen2_5_omni" else Qwen3OmniMoeAudioEncoder
    model = tower(config(name)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms that are not the identity, biases that are not zero.
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def features(name: str, clip: Tensor) -> Tensor:
    """Return the (mels, mel frames) of a clip as the processor of the model makes them."""
    found = WhisperFeatureExtractor(feature_size=128, chunk_length=300)(
        [clip.numpy()],
        sampling_rate=16_000,
        padding="max_length" if name == "qwen2_5_omni" else True,
        truncation=False,
        return_attention_mask=True,
        return_tensors="pt",
    )
    mel: Tensor = found["input_features"][0][:, found["attention_mask"][0].bool()]
    return mel


def run_reference(name: str, model: Any, clip: Tensor) -> dict[int | str, Tensor]:
    """Return what leaves each layer, the frames after the norm (`end`) and the tower's output (`out`)."""
    seen: dict[int | str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, out, n=number: seen.__setitem__(n, out[0]))
        for number, layer in enumerate(model.layers, start=1)
    ]
    hooks += [
        model.layers[0].register_forward_pre_hook(
            lambda _, args, kwargs: seen.__setitem__(0, args[0]), with_kwargs=True
        ),
        model.ln_post.register_forward_hook(lambda _, __, out: seen.__setitem__("end", out)),
    ]
    mel = features(name, clip)
    with torch.inference_mode():
        seen["out"] = model(mel, feature_lens=torch.tensor([mel.shape[1]])).last_hidden_state
    for hook in hooks:
        hook.remove()
    return seen


def save(folder: Path, name: str, model: Any, prefix: str = "") -> str:
    folder.mkdir()
    written: dict[str, Any] = model.config.to_dict()
    if prefix:
        written = {"model_type": f"{TYPES[name]}_thinker", "audio_config": written}
    if prefix.startswith("thinker."):
        written = {"model_type": TYPES[name], "thinker_config": written}
    (folder / "config.json").write_text(json.dumps(written))
    state = {prefix + key: value.contiguous() for key, value in model.state_dict().items()}
    if prefix:
        state["talker.x"] = torch.zeros(1)
    save_file(state, folder / "model.safetensors")
    return str(folder)


def build(name: str, **options: Any) -> Any:
    encoder = ENCODERS[name](ENCODERS[name].Config(**options)).eval()
    encoder.load_weights()
    return encoder


def encode(encoder: Any, clips: list[Tensor]) -> list[Tensor]:
    with torch.inference_mode():
        out: Padded = encoder(Padded.stack(clips))
    return out.unstack()


@pytest.mark.parametrize("name", list(ENCODERS))
def test_equals_transformers_alone_and_in_a_batch(name: str, tmp_path: Path) -> None:
    model = reference(name)
    encoder = build(name, weights=save(tmp_path / "w", name, model))
    clips = [noise(length) for length in EDGES[name]]
    together = encode(encoder, clips)
    for clip, found in zip(clips, together, strict=True):
        (alone,) = encode(encoder, [clip])
        expected = run_reference(name, model, clip)["end"]
        assert len(alone) == len(found) == len(expected) == encoder.num_frames(len(clip))
        torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_layer_is_that_of_the_reference(name: str, tmp_path: Path) -> None:
    model, clip = reference(name), noise(40_000)
    weights = save(tmp_path / "w", name, model)
    expected = run_reference(name, model, clip)
    for layer in range(NUM_LAYERS):
        encoder = build(name, weights=weights, layers=[layer])
        assert len(encoder.model.layers) == layer
        (found,) = encode(encoder, [clip])
        frames = expected[layer]
        if name == "qwen2_5_omni":
            frames = torch.stack([frames[0:-1:2], frames[1::2]]).mean(0)
        torch.testing.assert_close(found, frames, rtol=0, atol=1e-5)
    (both,) = encode(build(name, weights=weights, layers=[0, NUM_LAYERS]), [clip])
    torch.testing.assert_close(both[:, 32:], expected["end"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "audio_tower.", "model.audio_tower.", "thinker.audio_tower."])
@pytest.mark.parametrize("name", list(ENCODERS))
def test_loads_the_whole_the_thinker_and_the_encoder(name: str, prefix: str, tmp_path: Path) -> None:
    model = reference(name)
    encoder = build(name, weights=save(tmp_path / "w", name, model, prefix))
    state = model.state_dict()
    left = {key.split(".")[0] for key in state.keys() - encoder.model.state_dict().keys()}
    assert left == {"qwen2_5_omni": {"proj", "audio_bos_eos_token"}, "qwen3_omni": {"proj1", "proj2"}}[name]
    for key, value in encoder.model.state_dict().items():
        assert torch.equal(value, state[key])
    assert encoder.pretrained_names() == {key for key, _ in encoder.named_parameters()}


@pytest.mark.parametrize("name", list(ENCODERS))
def test_loads_what_transformers_saves_of_a_thinker(name: str, tmp_path: Path) -> None:
    text: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 16,
        "vocab_size": 32,
    }
    vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 16}
    audio = config(name, output_dim=16).to_dict()
    thinker: Any
    if name == "qwen2_5_omni":
        thinker = Qwen2_5OmniThinkerForConditionalGeneration(
            Qwen2_5OmniThinkerConfig(audio_config=audio, text_config=text, vision_config=vision)
        )
    else:
        text |= {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "head_dim": 8}
        vision["deepstack_visual_indexes"] = [0]  # type: ignore[assignment]
        thinker = Qwen3OmniMoeThinkerForConditionalGeneration(
            Qwen3OmniMoeThinkerConfig(audio_config=audio, text_config=text, vision_config=vision)
        )
    thinker.save_pretrained(tmp_path)
    found = build(name, weights=str(tmp_path)).model.state_dict()
    for key, value in thinker.model.audio_tower.state_dict().items():
        if key in found:
            assert torch.equal(found.pop(key), value)
    assert not found


@pytest.mark.parametrize(
    ("name", "num_samples", "num_frames"),
    [
        ("qwen2_5_omni", 0, 1),
        ("qwen2_5_omni", 480, 1),
        ("qwen2_5_omni", 16_000, 25),
        ("qwen2_5_omni", 160_000, 250),
        ("qwen2_5_omni", 480_001, 750),
        ("qwen3_omni", 0, 1),
        ("qwen3_omni", 319, 1),
        ("qwen3_omni", 16_000, 13),
        ("qwen3_omni", 48_000, 39),
        ("qwen3_omni", 160_000, 130),
    ],
)
def test_num_frames(name: str, num_samples: int, num_frames: int) -> None:
    encoder = ENCODERS[name](ENCODERS[name].tiny_config()).eval()
    assert encoder.num_frames(num_samples) == num_frames
    with torch.inference_mode():
        out = encoder(Padded(torch.zeros(1, max(1, num_samples)), torch.tensor([num_samples])))
    assert out.values.shape == (1, num_frames, 32)


def test_a_clip_longer_than_300_seconds_is_refused() -> None:
    encoder = Qwen2_5OmniEncoder(Qwen2_5OmniEncoder.tiny_config())
    message = r"clip 0 of the batch lasts 300.00 s \(4800001 samples\), and encoder 'qwen2_5_omni' takes at"
    with pytest.raises(AudioError, match=message):
        encoder(Padded.stack([torch.zeros(4_800_001)]))


@pytest.mark.parametrize(
    ("name", "written", "message"),
    [
        (
            "qwen2_5_omni",
            {"model_type": "bert"},
            "is a 'bert' model.*takes 'qwen2_5_omni_audio_encoder', alone",
        ),
        ("qwen2_5_omni", {"model_type": "qwen2_5_omni"}, "thinker_config.audio_config is missing"),
        ("qwen2_5_omni", {"model_type": "qwen2_5_omni_thinker"}, "config.json: audio_config is missing"),
        (
            "qwen3_omni",
            {"model_type": "qwen3_omni_moe", "thinker_config": {}},
            "config.json: thinker_config.audio_config is missing",
        ),
        ("qwen3_omni", {"model_type": "qwen3_omni_moe_audio_encoder"}, "config.json lacks 'd_model'"),
        (
            "qwen3_omni",
            {"model_type": "qwen3_omni_moe_audio_encoder", "n_window_infer": 400},
            "n_window_infer is 400, and encoder 'qwen3_omni' takes only 800",
        ),
        (
            "qwen2_5_omni",
            {"model_type": "qwen2_5_omni_audio_encoder", "n_window": 50},
            "n_window is 50, and encoder 'qwen2_5_omni' takes only 100",
        ),
    ],
)
def test_refuses_other_models(name: str, written: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(WeightsError, match=message):
        build(name, weights=str(tmp_path))


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "w", "qwen3_omni", reference("qwen3_omni"))
    path = tmp_path / "w" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "encoder_layers": NUM_LAYERS + 1}))
    with pytest.raises(WeightsError, match=r"missing: layers\.3\.self_attn\.q_proj\.weight"):
        build("qwen3_omni", weights=folder)


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        for name, encoder, tower in (
            ("qwen2_5_omni", Qwen2_5OmniEncoder(Qwen2_5OmniEncoder.Config()), Qwen2_5OmniAudioEncoder),
            ("qwen3_omni", Qwen3OmniEncoder(Qwen3OmniEncoder.Config()), Qwen3OmniMoeAudioEncoder),
        ):
            published: Any = tower(
                Qwen2_5OmniAudioEncoderConfig()
                if name == "qwen2_5_omni"
                else Qwen3OmniMoeAudioEncoderConfig()
            )
            shapes = {key: value.shape for key, value in published.state_dict().items()}
            own = {key: value.shape for key, value in encoder.model.state_dict().items()}
            assert own.items() <= shapes.items()
    assert (Sizes().num_layers, Qwen3Sizes().channels) == (32, 480)
    assert (Qwen2_5OmniEncoder.frame_rate, Qwen3OmniEncoder.frame_rate) == (25.0, 13.0)
