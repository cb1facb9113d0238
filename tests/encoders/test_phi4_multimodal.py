"""Phi-4-Multimodal's encoder against transformers' own modules, with small random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Phi4MultimodalAudioConfig, Phi4MultimodalFeatureExtractor
from transformers.models.phi4_multimodal.modeling_phi4_multimodal import Phi4MultimodalAudioModel as Reference

from kikimimi import Padded, WeightsError
from kikimimi.testing import Check, parametrize_checks
from kikimimi_encoders.phi4_multimodal import Phi4MultimodalEncoder, Sizes

Config = Phi4MultimodalEncoder.Config
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_blocks": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "nemo_conv_channels": 8,
    "ext_pw_out_channel": 32,
    "depthwise_separable_out_channel": 32,
    "bias_max_distance": 7,
}


def noise(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1


def reference() -> Any:
    torch.manual_seed(0)
    model = Reference(Phi4MultimodalAudioConfig(**SMALL)).eval()
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            value.add_(0.1 * torch.rand(value.shape))
        model.encoder_embedding.global_mean.fill_(9.0)
        model.encoder_embedding.global_invstd.fill_(0.2)
    return model


def save(folder: Path, model: Any, prefix: str = "", **config: Any) -> str:
    folder.mkdir()
    written = {**model.config.to_dict(), **config}
    if prefix:
        written = {"model_type": "phi4_multimodal", "audio_config": written}
    (folder / "config.json").write_text(json.dumps(written))
    save_file(
        {prefix + name: value for name, value in model.state_dict().items()}, folder / "model.safetensors"
    )
    return str(folder)


def load(weights: str, **options: Any) -> Phi4MultimodalEncoder:
    encoder = Phi4MultimodalEncoder(Config(weights=weights, **options)).eval()
    encoder.load_weights()
    return encoder


def features(clip: Tensor) -> Tensor:
    found = Phi4MultimodalFeatureExtractor()([clip.numpy()], sampling_rate=16_000, return_tensors="pt")
    mel: Tensor = found["audio_input_features"].float()
    return mel


@parametrize_checks(
    Phi4MultimodalEncoder,
    layers=Config(layers=[0, 1, 2], sizes=Sizes(num_layers=2, subsampling=4, kernel_size=5, dropout=0.1)),
)
def test_keeps_the_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("prefix", ["", "model.embed_tokens_extend.audio_embed.encoder."])
def test_equals_transformers(tmp_path: Path, prefix: str) -> None:
    model = reference()
    encoder = load(save(tmp_path / "weights", model, prefix))
    clips = [noise(length) for length in (400, 1_000, 16_000, 50_003)]
    with torch.inference_mode():
        out = encoder(Padded.stack(clips)).unstack()
        for clip, found in zip(clips, out, strict=True):
            expected = model(features(clip), None)[0]
            assert len(found) == len(expected) == encoder.num_frames(len(clip))
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_a_long_clip_is_cut_into_pieces_of_40_seconds(tmp_path: Path) -> None:
    model = reference()
    encoder = load(save(tmp_path / "weights", model))
    # Two whole pieces: where the last one is not, the reference lets it see zeros after the clip.
    clip = noise(400 + (1_000 * 8 - 1) * 160)
    with torch.inference_mode():
        torch.testing.assert_close(
            encoder(Padded.stack([clip])).values, model(features(clip), None), rtol=0, atol=2e-5
        )


def test_layers_are_those_of_the_reference(tmp_path: Path) -> None:
    model = reference()
    weights, clip = save(tmp_path / "weights", model), noise(16_000)
    seen: list[Tensor] = []
    for layer in model.encoders:
        layer.register_forward_hook(lambda module, given, result: seen.append(result))
    with torch.inference_mode():
        model(features(clip), None)
        found = load(weights, layers=[1, 2])(Padded.stack([clip])).values
    torch.testing.assert_close(found, torch.cat(seen, dim=-1), rtol=0, atol=2e-5)


def test_it_has_441_million_parameters() -> None:
    with torch.device("meta"):
        encoder = Phi4MultimodalEncoder(Config())
        model = Reference(Phi4MultimodalAudioConfig())
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == sum(parameter.numel() for parameter in model.parameters())
    assert count == pytest.approx(441.3e6, abs=0.05e6)
    assert encoder.frame_rate == 12.5


def test_refuses_other_models(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="chunk_size is 18, and encoder 'phi4_multimodal' takes only -1"):
        load(save(tmp_path / "streaming", reference(), chunk_size=18))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "phi4mm"}))
    with pytest.raises(WeightsError, match="is a 'phi4mm' model"):
        load(str(tmp_path / "other"))
