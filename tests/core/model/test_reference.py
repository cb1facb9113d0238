from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from kikimimi import AudioPart, Conversation, Message, TextPart
from kikimimi.contracts.batch import Batch, Sample, collate
from kikimimi.model.reference import Reference
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import freeze_all_but, trainable_names
from kikimimi.recipe import load_recipe
from kikimimi.testing import tiny_model

RECIPE = """
name: small
encoder: {name: whisper, weights: random}
adapter: {name: mlp}
llm: {name: llama, scratch: {dropout: 0.5}, lora: {rank: 2, dropout: 0.5, modality: MODALITY}}
stages:
  one: {train: {adapter: {}, llm: {part: lora}}, data: {x: {shards: x.tar, task: chat}}, steps: 1}
"""


@pytest.fixture(params=["any", "audio"])
def model(tmp_path: Path, request: pytest.FixtureRequest) -> SpeechLM:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("MODALITY", request.param), encoding="utf-8")
    recipe = load_recipe(path)
    model = tiny_model(recipe)
    model.train()
    freeze_all_but(model, trained(model, recipe.stages["one"]))
    return model


def trained(model: SpeechLM, stage: object) -> list[str]:
    names: dict[str, list[str]] = trainable_names(model, stage, where="stages.one")  # type: ignore[arg-type]
    return [name for found in names.values() for name in found]


def batch(model: SpeechLM) -> Batch:
    turns = (
        Message("user", (AudioPart("0.flac"), TextPart("何"))),
        Message("assistant", (TextPart("はい"),)),
    )
    clip = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(0))
    spoken = Sample("x/0", model.llm.render(Conversation(turns)), [clip])
    written = Sample(
        "x/1", model.llm.render(Conversation((Message("user", (TextPart("何"),)), turns[1]))), []
    )
    return collate([spoken, written])


def logits(model: SpeechLM) -> torch.Tensor:
    found: torch.Tensor = model(batch(model)).logits.detach()
    return found


def disturb(model: SpeechLM, names: Iterable[str] | None = None) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and (names is None or name in names):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def state(model: SpeechLM) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_model_is_what_it_was_and_then_trains_on(model: SpeechLM) -> None:
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    before = logits(model)
    for name, module in model.named_modules():
        module.training = modes[name]
    reference = Reference(model, names)
    disturb(model)
    after = state(model)
    random = torch.get_rng_state()
    with reference(), torch.no_grad():
        torch.testing.assert_close(logits(model), before, rtol=0, atol=0)
        torch.testing.assert_close(logits(model), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)  # no dropout in the reference
    assert {name: module.training for name, module in model.named_modules()} == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, after[name])
    model.eval()
    assert not torch.equal(logits(model), before)


def test_updates_that_are_zero_cost_no_copy(model: SpeechLM) -> None:
    lora = [name for name, _ in model.named_parameters() if ".lora_" in name]
    adapter = [name for name, _ in model.named_parameters() if name.startswith("adapter.")]
    assert Reference(model, lora).copied == 0
    of_adapter = sum(parameter.numel() for parameter in model.adapter.parameters())
    assert Reference(model, lora + adapter).copied == of_adapter
    disturb(model, lora)  # as an earlier stage leaves them: switching them off would undo it
    model.eval()
    before = logits(model)
    reference = Reference(model, lora)
    assert reference.copied == sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n)
    disturb(model, lora)
    with reference(), torch.no_grad():
        torch.testing.assert_close(logits(model), before, rtol=0, atol=0)


def test_gradients_of_a_pass_before_the_reference_are_right(model: SpeechLM) -> None:
    """What the reference's pass changes for a while is nothing that backward would miss."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    reference = Reference(model, names)
    disturb(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.llm.model.eval()  # type: ignore[union-attr]

    def gradients(between: bool) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss = model(batch(model)).logits.square().mean()
        if between:
            modes = {name: module.training for name, module in model.named_modules()}
            with reference(), torch.no_grad():
                model(batch(model))
            for name, module in model.named_modules():
                module.training = modes[name]
        loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    plain, passed = gradients(False), gradients(True)
    assert set(plain) == set(passed) == set(names)
    for name, gradient in plain.items():
        torch.testing.assert_close(passed[name], gradient, rtol=0, atol=0)
