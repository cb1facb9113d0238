from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from kikimimi import AudioPart, Conversation, Generation, Message, TextPart
from kikimimi.contracts.batch import Batch, Sample, collate
from kikimimi.errors import RecipeError
from kikimimi.model.lora import AudioGate, add_lora
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import freeze_all_but, trainable_names
from kikimimi.recipe import LoRA, Recipe, load_recipe
from kikimimi.testing import tiny_model

RECIPE = """
name: small
encoder: {name: whisper, weights: random}
adapter: {name: mlp}
llm: {name: llama, scratch: {dropout: 0.1}, lora: {rank: 4, alpha: 8, targets: [q_proj, v_proj, up_proj]}}
stages:
  sft: {train: {llm: {part: lora}}, data: {x: {shards: x.tar, task: chat}}, steps: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return load_recipe(path)


def bare(recipe: Recipe) -> Recipe:
    return replace(recipe, llm=replace(recipe.llm, lora=None))


def with_modality(recipe: Recipe, modality: str, **changes: object) -> Recipe:
    assert recipe.llm.lora is not None
    lora = replace(recipe.llm.lora, modality=modality, **changes)  # type: ignore[arg-type]
    return replace(recipe, llm=replace(recipe.llm, lora=lora))


def disturb(model: nn.Module) -> None:
    """Give the updates, which start at zero, something to do."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)


def conversation(model: SpeechLM, name: str, audio: bool, *, generate: bool = False) -> Sample:
    parts = (AudioPart("0.flac"), TextPart(name)) if audio else (TextPart(name),)
    turns = [Message("user", parts)]
    if not generate:
        turns.append(Message("assistant", (TextPart("はい、" + name),)))
    clips = [0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(len(name)))] if audio else []
    return Sample(name, model.llm.render(Conversation(tuple(turns)), generate=generate), clips)


def mixed(model: SpeechLM, *, generate: bool = False) -> Batch:
    return collate(
        [
            conversation(model, "written", False, generate=generate),
            conversation(model, "spoken", True, generate=generate),
            conversation(model, "written too", False, generate=generate),
        ]
    )


@pytest.fixture
def three(recipe: Recipe) -> tuple[SpeechLM, SpeechLM, SpeechLM]:
    """Return one model without updates, with updates for audio alone, with updates everywhere."""
    base = tiny_model(bare(recipe))
    audio, everywhere = (tiny_model(with_modality(recipe, modality)) for modality in ("audio", "any"))
    for model in (audio, everywhere):
        disturb(model)
    return base.eval(), audio.eval(), everywhere.eval()


def test_text_alone_is_bit_identical_to_the_base_model(three: tuple[SpeechLM, SpeechLM, SpeechLM]) -> None:
    base, audio, everywhere = three
    assert audio.gate is not None
    assert everywhere.gate is None
    texts = collate([conversation(base, name, False) for name in ("one", "and another")])
    assert torch.equal(audio(texts).logits, base(texts).logits)
    assert not torch.allclose(everywhere(texts).logits, base(texts).logits, atol=1e-2)


def test_in_one_pack_only_conversations_with_audio_change(
    three: tuple[SpeechLM, SpeechLM, SpeechLM],
) -> None:
    batch = mixed(three[0])
    without, gated, full = (model(batch) for model in three)
    heard = gated.sequence == 1
    assert torch.equal(gated.logits[~heard], without.logits[~heard])
    torch.testing.assert_close(gated.logits[heard], full.logits[heard], atol=1e-5, rtol=0)
    assert not torch.allclose(gated.logits[heard], without.logits[heard], atol=1e-2)


def test_generation_is_gated_too(three: tuple[SpeechLM, SpeechLM, SpeechLM]) -> None:
    for beams in (1, 2):
        answers = [
            model.generate_ids(mixed(model, generate=True), Generation(max_new_tokens=8, num_beams=beams))
            for model in three
        ]
        assert [answers[1][0], answers[1][2]] == [answers[0][0], answers[0][2]]
        assert answers[1][1] == answers[2][1]
        assert answers[1][1] != answers[0][1]


def test_no_gradient_comes_from_text_alone(recipe: Recipe) -> None:
    model = tiny_model(with_modality(recipe, "audio"))
    disturb(model)
    names = trainable_names(model, recipe.stages["sft"], where="stages.sft")["llm"]
    freeze_all_but(model, names)
    model(collate([conversation(model, "written", False)])).logits.sum().backward()
    assert all(not model.get_parameter(name).grad.any() for name in names)  # type: ignore[union-attr]
    model(mixed(model)).logits.sum().backward()
    assert all(model.get_parameter(name).grad.any() for name in names)  # type: ignore[union-attr]


def test_a_copied_model_has_its_own_gate(three: tuple[SpeechLM, SpeechLM, SpeechLM]) -> None:
    _, audio, _ = three
    copied = copy.deepcopy(audio)
    expected = audio(mixed(audio)).logits
    assert audio.gate is not None
    audio.gate.set(False)
    assert torch.equal(copied(mixed(copied)).logits, expected)


def test_updates_are_fp32_beside_half_precision(recipe: Recipe) -> None:
    half = replace(recipe, llm=replace(recipe.llm, dtype="bf16"))
    model = tiny_model(half)
    kinds = {name: p.dtype for name, p in model.llm.named_parameters()}
    assert {kind for name, kind in kinds.items() if ".lora_" in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if ".lora_" not in name} == {torch.bfloat16}
    freeze_all_but(model, trainable_names(model, half.stages["sft"], where="stages.sft")["llm"])
    model(mixed(model)).logits.float().sum().backward()
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad
    )


def test_weights_of_half_precision_are_not_trained(recipe: Recipe) -> None:
    half = replace(recipe, llm=replace(recipe.llm, dtype="bf16"))
    model = tiny_model(half)
    everything = replace(
        half.stages["sft"], train={"llm": replace(half.stages["sft"].train["llm"], part="all")}
    )
    with pytest.raises(RecipeError, match=r"stages.sft.train.llm: trains .*bfloat16, .* Take llm.dtype away"):
        trainable_names(model, everything, where="stages.sft")


def test_layers_that_are_not_there_are_named(recipe: Recipe) -> None:
    with pytest.raises(
        RecipeError, match=r"llm.lora.targets: no linear layer is called qproj. Layers: .*q_proj"
    ):
        add_lora(tiny_model(bare(recipe)).llm, LoRA(targets=["qproj"]), where="llm")


def test_audio_alone_has_no_meaning_for_the_encoder(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"encoder.lora.modality: the encoder hears nothing but audio"):
        load_recipe(path, ["encoder.lora={rank: 2, modality: audio}"])


def test_an_update_whose_sequences_cannot_be_told_apart() -> None:
    gate = AudioGate()
    gate.set(torch.tensor([True, False]), torch.tensor([3, 2]))
    update = torch.ones(5, 4)
    assert gate(nn.Identity(), (), update).sum(1).tolist() == [4, 4, 4, 0, 0]
    assert gate(nn.Identity(), (), torch.ones(2, 3, 4)).sum((1, 2)).tolist() == [12, 0]
    with pytest.raises(
        ValueError, match=r"lora.modality: audio cannot tell the sequences .* \(3, 7, 4\) apart"
    ):
        gate(nn.Identity(), (), torch.ones(3, 7, 4))


def test_every_component_takes_updates(recipe: Recipe) -> None:
    encoder = replace(recipe.encoder, lora=LoRA(rank=2, targets=["fc1"]))
    adapter = replace(recipe.adapter, lora=LoRA(rank=2, alpha=4.0, targets=["0"]))
    model = tiny_model(replace(recipe, encoder=encoder, adapter=adapter))
    for part in (model.encoder, model.adapter, model.llm):
        assert any(".lora_A." in name for name, _ in part.named_parameters())
