from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchaudio.compliance import kaldi
from transformers import (
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertModel,
)

from kikimimi import Padded, WeightsError
from kikimimi.testing import Check, parametrize_checks
from kikimimi_encoders.ssl.masking import SpanMasking
from kikimimi_encoders.ssl.wav2vec2_bert import (
    NUM_MELS,
    Sizes,
    Wav2Vec2BertEncoder,
    stacked_fbank,
)

SAMPLES = (4_000, 560, 16_000, 7_123)


def noise(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1 + 0.02


def reference_features(clips: list[Tensor]) -> Any:
    extractor = SeamlessM4TFeatureExtractor()
    return extractor([clip.numpy() for clip in clips], sampling_rate=16_000, return_tensors="pt")


def reference(cls: Any = Wav2Vec2BertModel) -> Any:
    torch.manual_seed(1)
    config = Wav2Vec2BertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, vocab_size=5
    )
    model = cls(config).eval()
    with torch.no_grad():
        # Norms and biases that start at 1 and 0 would hide a mistake.
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def load(weights: Path, **options: Any) -> Wav2Vec2BertEncoder:
    encoder = Wav2Vec2BertEncoder(Wav2Vec2BertEncoder.Config(weights=str(weights), **options)).eval()
    encoder.load_weights()
    return encoder


@parametrize_checks(
    Wav2Vec2BertEncoder,
    weighted=Wav2Vec2BertEncoder.Config(layers=[0, 12, 24], combine="weighted_sum", mask_feature_prob=0.2),
)
def test_keeps_the_contract(check: Check) -> None:
    check()


@pytest.mark.parametrize("length", [560, 719, 720, 4_000, 16_000])
def test_features_equal_those_of_the_extractor(length: int) -> None:
    clip = noise(length)
    expected = reference_features([clip])
    found = stacked_fbank(clip)
    assert len(found) == int(expected["attention_mask"].sum())
    # Before the division by each band's deviation, which is close to zero where two frames hardly differ.
    banks = kaldi.fbank(clip[None] * 2**15, num_mel_bins=NUM_MELS, sample_frequency=16_000, dither=0.0)
    scale = banks.std(0).repeat(2)
    expected = expected["input_features"][0, : len(found)].float()
    torch.testing.assert_close(found * scale, expected * scale, rtol=0, atol=3e-4)


def test_layers_equal_those_of_transformers(tmp_path: Path) -> None:
    model = reference()
    model.save_pretrained(tmp_path)
    encoder = load(tmp_path, layers=[0, 1, 2, 3])
    clips = [noise(length) for length in SAMPLES]
    features = Padded.stack([stacked_fbank(clip) for clip in clips])
    with torch.inference_mode():
        out = encoder(Padded.stack(clips))
        expected = model(
            features.values, attention_mask=features.mask().long(), output_hidden_states=True
        ).hidden_states
    assert out.lengths.tolist() == [11, 1, 49, 21]
    for i, found in enumerate(out.unstack()):
        wanted = torch.stack([hidden[i, : len(found)] for hidden in expected], dim=1)
        torch.testing.assert_close(found.unflatten(-1, (4, 32)), wanted, rtol=0, atol=1e-5)


def test_loads_a_model_with_its_head_and_leaves_out_what_is_not_read(tmp_path: Path) -> None:
    model = reference(Wav2Vec2BertForCTC)
    model.save_pretrained(tmp_path)
    encoder = load(tmp_path, layers=[2], mask_time_prob=0.1)
    assert len(encoder.model.layers) == 2
    assert isinstance(encoder.augmentation, SpanMasking)
    assert encoder.augmentation.masked_spec_embed is not None
    assert torch.equal(encoder.augmentation.masked_spec_embed, model.wav2vec2_bert.masked_spec_embed)
    clip = noise(8_000)
    with torch.inference_mode():
        hidden = model.wav2vec2_bert(stacked_fbank(clip)[None], output_hidden_states=True).hidden_states
        torch.testing.assert_close(encoder(Padded.stack([clip])).values, hidden[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("num_samples", "num_frames"), [(0, 1), (559, 1), (560, 1), (879, 1), (880, 2), (16_000, 49)]
)
def test_num_frames(num_samples: int, num_frames: int) -> None:
    encoder = Wav2Vec2BertEncoder(Wav2Vec2BertEncoder.tiny_config()).eval()
    assert encoder.num_frames(num_samples) == num_frames
    audio = Padded(torch.ones(1, max(1, num_samples)), torch.tensor([num_samples]))
    with torch.inference_mode():
        out = encoder(audio)
    assert out.lengths.tolist() == [num_frames]
    assert out.values.isfinite().all()


def test_full_size() -> None:
    with torch.device("meta"):
        encoder = Wav2Vec2BertEncoder(Wav2Vec2BertEncoder.Config(weights="random"))
        reference = Wav2Vec2BertModel(Wav2Vec2BertConfig(mask_time_prob=0.0))
    expected = sum(parameter.numel() for parameter in reference.parameters())
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected
    assert round(expected / 1e6) == 580
    assert (encoder.dim, encoder.frame_rate) == (1024, 50.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "wav2vec2"}, "is a 'wav2vec2' model; encoder 'wav2vec2_bert' takes 'wav2vec2-bert'"),
        (
            {"add_adapter": True},
            "config.json: add_adapter is True, and encoder 'wav2vec2_bert' takes only F",
        ),
        (
            {"position_embeddings_type": "rotary"},
            "is 'rotary', and encoder 'wav2vec2_bert' takes only 'relative",
        ),
        ({"hidden_size": "wide"}, "config.json: Validation error for field 'hidden_size'"),
    ],
)
def test_refuses_other_models(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    reference().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(WeightsError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": Sizes()}, "sizes is read only with weights: random, not with 'facebook/w2v-bert-2.0'"),
        ({"layers": []}, "layers: must not be empty"),
        ({"mask_time_length": 3}, "mask_time_length is read only with mask_time_prob above 0"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Wav2Vec2BertEncoder.Config(**options)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_layers": 0}, "num_layers: must be at least 1, not 0"),
        ({"num_heads": 7}, r"sizes.num_heads \(7\) must divide sizes.dim \(1024\)"),
        ({"kernel_size": 30}, "kernel_size: must be at least 1 and odd, not 30"),
    ],
)
def test_refuses_sizes(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sizes(**sizes)
