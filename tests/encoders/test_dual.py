from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperModel

from kikimimi import AudioError, Chosen, Encoder, Padded, RecipeError
from kikimimi.model.lora import add_lora
from kikimimi.recipe import LoRA, Recipe, load_recipe
from kikimimi.recipe.show import to_yaml
from kikimimi.testing import Check, parametrize_checks
from kikimimi.testing.tiny import tiny_model
from kikimimi_encoders import dual
from kikimimi_encoders.dual import DualEncoder
from kikimimi_encoders.spec_augment import SpecAugment
from kikimimi_encoders.whisper.whisper import Sizes, WhisperEncoder

Config = DualEncoder.Config


def whisper(**options: Any) -> Chosen:
    sizes = {"dim": 16, "num_layers": 2, "num_heads": 2, "ffn_dim": 32, **options.pop("sizes", {})}
    return Chosen.of("encoder", "whisper", weights="random", sizes=Sizes(**sizes), **options)


@parametrize_checks(
    DualEncoder,
    masked=Config(
        first=whisper(spec_augment=SpecAugment(), layers=[1, 2], combine="weighted_sum"),
        second=whisper(layers=[1]),
    ),
    nested=Config(second=Chosen.of("encoder", "dual")),
)
def test_contract(check: Check) -> None:
    check()


def noise(length: int) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(length)) * 0.1


CLIPS = [noise(length) for length in (16_000, 640, 4_000)]


class Ear(Encoder):
    """One value per `hop` samples, the mean of them, in `dim` channels; partial hops count or not."""

    Config = WhisperEncoder.Config
    sample_rate = 16_000
    max_seconds: float | None = None

    def __init__(self, *, hop: int = 320, whole: bool = False, dim: int = 3, rate: int = 16_000) -> None:
        super().__init__()
        self.hop, self.whole, self.dim = hop, whole, dim
        self.sample_rate = rate
        self.frame_rate = rate / hop
        self.scale = nn.Parameter(torch.arange(1.0, dim + 1) ** 2)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        return WhisperEncoder.tiny_config(config)

    def shard_classes(self) -> set[type[nn.Module]]:
        return {nn.Linear}

    def num_frames(self, num_samples: int) -> int:
        return max(1, num_samples // self.hop if self.whole else -(-num_samples // self.hop))

    def save_assets(self, folder: Path) -> None:
        (folder / "ear.txt").write_text(f"{self.dim}", "ascii")

    def forward(self, audio: Padded) -> Padded:
        clips = [
            torch.stack([wave[i * self.hop :][: self.hop].mean() for i in range(self.num_frames(len(wave)))])
            for wave in audio.unstack()
        ]
        padded = Padded.stack([clip[:, None] * self.scale for clip in clips])
        # What stands past the lengths is unspecified: here it is as bad as it gets, and wide.
        past = ~padded.mask()[..., None]
        values = padded.values.masked_fill(past, torch.nan)
        return Padded(nn.functional.pad(values, (0, 0, 0, 2), value=torch.nan), padded.lengths)


def pair(monkeypatch: pytest.MonkeyPatch, first: Encoder, second: Encoder) -> DualEncoder:
    """Build a dual encoder over two given ones."""
    built = {"first": first, "second": second}
    monkeypatch.setattr(dual, "_build", lambda name, _chosen: built[name])
    return DualEncoder(Config())


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of each are normed, zeros follow a clip's shorter ones, channels lie side by side."""
    short, long = Ear(whole=True, dim=3), Ear(dim=5)
    encoder = pair(monkeypatch, short, long)
    with torch.no_grad():
        for norm in (encoder.norm_first, encoder.norm_second):
            norm.weight.normal_()
            norm.bias.normal_()
    clips = [noise(length) for length in (960, 1000, 300, 1300)]
    out = encoder(Padded.stack(clips))
    assert encoder.dim == 8
    assert out.lengths.tolist() == [3, 4, 1, 5]
    assert out.lengths.tolist() == [encoder.num_frames(len(clip)) for clip in clips]
    for wave, found in zip(clips, out.unstack(), strict=True):
        one, two = (ear(Padded.stack([wave])).unstack()[0] for ear in (short, long))
        assert len(two) == len(found)
        expected = torch.zeros(len(two), 8)
        for frame, values in enumerate(one):
            expected[frame, :3] = _layer_norm(values, encoder.norm_first)
        for frame, values in enumerate(two):
            expected[frame, 3:] = _layer_norm(values, encoder.norm_second)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert not found[len(one) :, :3].any()
    loss: Any = torch.cat(out.unstack()).square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def _layer_norm(values: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = values - values.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt() * norm.weight + norm.bias


def test_the_channels_are_those_of_the_two_encoders() -> None:
    torch.manual_seed(0)
    encoder = DualEncoder(Config(first=whisper(), second=whisper(sizes={"dim": 24}, layers=[1]))).eval()
    assert encoder.dim == 40
    audio = Padded.stack(CLIPS)
    with torch.inference_mode():
        found = encoder(audio)
        first, second = encoder.first(audio), encoder.second(audio)
        expected = torch.cat([encoder.norm_first(first.values), encoder.norm_second(second.values)], -1)
    assert torch.equal(found.lengths, first.lengths)
    for clip, length in enumerate(found.lengths.tolist()):
        torch.testing.assert_close(found.values[clip, :length], expected[clip, :length], rtol=0, atol=1e-5)


def test_the_bound_is_the_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = whisper(sizes={"num_positions": 100})
    for options in ({"first": shorter, "second": whisper()}, {"first": whisper(), "second": shorter}):
        encoder = DualEncoder(Config(**options))
        assert encoder.max_seconds == 2.0
        with pytest.raises(AudioError, match=r"clip 0 of the batch lasts 2.00 s .* takes at most 2.00 s"):
            encoder(Padded.stack([torch.zeros(32_001)]))
    assert pair(monkeypatch, Ear(), Ear()).max_seconds is None


def test_rates_have_to_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "need one frame rate: 'whisper' gives 50 frames a second, 'whisper' 25"
    with pytest.raises(ValueError, match=message):
        pair(monkeypatch, Ear(), Ear(hop=640))
    message = "need one sample rate: 'whisper' takes 16000 Hz, 'whisper' 24000 Hz"
    with pytest.raises(ValueError, match=message):
        pair(monkeypatch, Ear(), Ear(hop=480, rate=24_000))
    # A frame and a half in 30 s is let pass.
    slow = Ear()
    slow.frame_rate = 49.96
    assert pair(monkeypatch, slow, Ear()).frame_rate == 49.96
    slow.frame_rate = 49.9
    with pytest.raises(ValueError, match=r"gives 49\.9 frames a second"):
        pair(monkeypatch, slow, Ear())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora": LoRA()}, "lora is not read here: set encoder.lora, which adapts both encoders"),
        ({"dtype": "bf16"}, "dtype is not read here: set encoder.dtype, which holds for both encoders"),
    ],
)
@pytest.mark.parametrize("name", ["first", "second"])
def test_options_of_parts_belong_to_the_whole(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}\.{message}"):
        Config(**{name: replace(whisper(), **change)})


def test_only_encoders_go_in() -> None:
    with pytest.raises(ValueError, match="second must be an encoder, not of the kind 'adapter'"):
        Config(second=Chosen.of("adapter", "mlp"))


def test_layers_side_by_side_are_refused() -> None:
    message = (
        "second.layers: 'whisper' lays 2 layers side by side, and 'dual' takes one layer, or several with"
    )
    with pytest.raises(ValueError, match=message):
        DualEncoder(Config(first=whisper(), second=whisper(layers=[1, 2])))


def test_what_an_encoder_refuses_says_which() -> None:
    with pytest.raises(ValueError, match=r"^second: layers names layer 3, and the encoder has 2"):
        DualEncoder(Config(first=whisper(), second=whisper(layers=[3])))


def saved_whisper(folder: Path, dim: int) -> str:
    config = WhisperConfig(
        d_model=dim,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        vocab_size=10,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    WhisperModel(config).save_pretrained(folder)
    return str(folder)


def test_weights_come_from_both_sources_and_the_norms_are_new(tmp_path: Path) -> None:
    first, second = saved_whisper(tmp_path / "a", 16), saved_whisper(tmp_path / "b", 24)
    encoder = DualEncoder(
        Config(
            first=Chosen.of("encoder", "whisper", weights=first),
            second=Chosen.of("encoder", "whisper", weights=second, layers=[0, 1], combine="weighted_sum"),
        )
    ).eval()
    encoder.load_weights()
    for source, part in ((first, encoder.first), (second, encoder.second)):
        alone = WhisperEncoder(WhisperEncoder.Config(weights=source)).eval()
        alone.load_weights()
        assert isinstance(part, WhisperEncoder)
        assert torch.equal(part.model.conv1.weight, alone.model.conv1.weight)
    new = {name for name, _ in encoder.named_parameters()} - encoder.pretrained_names()
    norms = {f"norm_{norm}.{kind}" for norm in ("first", "second") for kind in ("weight", "bias")}
    assert new == norms | {"second.taps.weight"}
    assert encoder.pretrained_names() < {name for name, _ in encoder.named_parameters()}
    random = DualEncoder(Config(first=whisper(), second=Chosen.of("encoder", "whisper", weights=second)))
    assert {name.split(".")[0] for name in random.pretrained_names()} == {"second"}


def test_masks_of_both_are_one_module() -> None:
    masked = whisper(spec_augment=SpecAugment())
    assert DualEncoder(Config(first=whisper(), second=whisper())).augmentation is None
    for options in ({"first": masked}, {"second": masked}, {"first": masked, "second": masked}):
        torch.manual_seed(0)
        encoder = DualEncoder(Config(**{"first": whisper(), "second": whisper(), **options})).eval()
        assert not [name for name in encoder.state_dict() if "augmentation" in name]
        assert isinstance(encoder.augmentation, nn.ModuleList)
        assert len(encoder.augmentation) == len(options)
        with torch.inference_mode():
            before = encoder(Padded.stack(CLIPS)).values
            encoder.augmentation.train()
            after = encoder(Padded.stack(CLIPS)).values
        assert torch.equal(before[..., :16], after[..., :16]) == ("first" not in options)
        assert torch.equal(before[..., 16:], after[..., 16:]) == ("second" not in options)


def test_low_rank_adaptation_reaches_both() -> None:
    encoder = DualEncoder(Config(first=whisper(), second=whisper()))
    add_lora(encoder, LoRA(rank=2), where="encoder")
    trainable = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[0] for name in trainable} == {"first", "second"}
    assert len(trainable) == 2 * 2 * 2 * 2


def test_assets_lie_in_folders_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pair(monkeypatch, Ear(dim=3), Ear(dim=5)).save_assets(tmp_path)
    assert (tmp_path / "first" / "ear.txt").read_text("ascii") == "3"
    assert (tmp_path / "second" / "ear.txt").read_text("ascii") == "5"


RECIPE = """\
name: two-ears
encoder:
  name: dual
  first: {name: whisper, weights: org/ear, layers: [4, 8], combine: weighted_sum}
  second: {name: qwen2_audio, weights: random, spec_augment: {freq_width: 20}}
adapter: mlp
llm: {name: llama, weights: random, scratch: {dim: 32}}
stages:
  align:
    train: {adapter: {}, encoder: {part: "norm_*"}}
    data:
      clips: {shards: clips.tar, task: asr}
    batch: {seconds: 30, global: 1}
    steps: 1
"""


def recipe(folder: Path, *changes: tuple[str, str], overrides: tuple[str, ...] = ()) -> Recipe:
    text = RECIPE
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    path = folder / "x.yaml"
    path.write_text(text, "utf-8")
    return load_recipe(path, overrides)


def test_a_recipe_nests_the_options(tmp_path: Path) -> None:
    found = recipe(tmp_path, overrides=("encoder.first.pad=window",))
    config = found.encoder.config
    assert config.first.name == "whisper"
    assert config.first.config == WhisperEncoder.Config(
        weights="org/ear", layers=[4, 8], combine="weighted_sum", pad="window"
    )
    assert config.second.config.spec_augment == SpecAugment(freq_width=20)
    shown = tmp_path / "shown.yaml"
    shown.write_text(to_yaml(found), "utf-8")
    assert load_recipe(shown).encoder == found.encoder


def test_a_swap_replaces_the_nested_section(tmp_path: Path) -> None:
    found = recipe(tmp_path, overrides=("encoder.first={name: qwen2_audio, pad: window}",))
    assert found.encoder.config.first == Chosen.of("encoder", "qwen2_audio", pad="window")


def test_a_bare_name_swaps_and_its_options_follow_in_any_order(tmp_path: Path) -> None:
    found = recipe(tmp_path, overrides=("encoder.first.pad=window", "encoder.first=qwen2_audio"))
    assert found.encoder.config.first == Chosen.of("encoder", "qwen2_audio", pad="window")


def test_a_swap_of_the_name_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"encoder.first.name: write encoder.first=qwen2_audio: another plug"
    ):
        recipe(tmp_path, overrides=("encoder.first.name=qwen2_audio",))


def test_an_extending_recipe_swaps_a_nested_plugin_whole(tmp_path: Path) -> None:
    recipe(tmp_path)
    over = tmp_path / "over.yaml"
    over.write_text("extends: x.yaml\nencoder: {first: {name: qwen2_audio, pad: window}}\n", "utf-8")
    assert load_recipe(over).encoder.config.first == Chosen.of("encoder", "qwen2_audio", pad="window")


def test_a_recipe_of_two_encoders_can_be_assembled(tmp_path: Path) -> None:
    both = recipe(tmp_path, ("name: qwen2_audio", "name: whisper"))
    model = tiny_model(both)
    assert isinstance(model.encoder, DualEncoder)
    assert model.encoder.dim == model.adapter.context.in_dim == 64
    assert model.encoder.augmentation is not None


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "combine",
            "combin",
            r"encoder\.first\.combin: encoder 'whisper' has no option 'combin'.*Did you mean",
        ),
        ("name: whisper", "name: whispr", r"encoder\.first: no encoder is called 'whispr'.*Did you mean"),
        ("name: whisper, ", "", r"encoder\.first: its name must be given\. Registered encoders: "),
        ("[4, 8]", "[8, 4]", r"encoder\.first\.layers: must be .*ascending"),
        ("freq_width: 20", "freq_width: 0", r"encoder\.second\.spec_augment\.freq_width: must be at least 1"),
        (
            "weights: random, spec",
            "lora: {rank: 2}, spec",
            r"encoder\.second\.lora: is not read here: set enc",
        ),
        ("weights: random, spec", "dtype: bf16, spec", r"encoder\.second\.dtype: is not read here: set enc"),
        (
            "second:",
            "third:",
            r"encoder\.third: encoder 'dual' has no option 'third'.*Options: first, second",
        ),
    ],
)
def test_errors_carry_the_dotted_key(tmp_path: Path, before: str, after: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(tmp_path, (before, after))


def test_frame_rates_that_differ_are_told_when_the_model_is_built(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"encoder: first and second need one frame rate: 'whisper' gives 50"
    ):
        tiny_model(recipe(tmp_path))
