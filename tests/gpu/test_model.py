"""The model on a GPU: it says what it says on a CPU, under autocast nearly so, and generates the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from kikimimi import AudioPart, Chosen, Conversation, Generation, Message, TextPart
from kikimimi.contracts.batch import Batch, Sample, collate
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe import Dataset, Recipe, Stage, Train
from kikimimi.testing import tiny_model

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["mlp", "qformer", "cif", "ctc"])
def model(request: pytest.FixtureRequest, device: torch.device) -> SpeechLM:
    adapter = Chosen.of("adapter", request.param)
    data = {"x": Dataset(shards="x.tar", task=Chosen.of("task", "chat"))}
    stage = Stage(train={"adapter": Train()}, data=data, steps=1)
    recipe = Recipe(
        name="small",
        encoder=Chosen.of("encoder", "whisper"),
        adapter=adapter,
        llm=Chosen.of("llm", "llama"),
        stages={"one": stage},
    )
    return tiny_model(recipe).eval()


def batch(model: SpeechLM, *, generate: bool = False) -> Batch:
    samples = []
    for number, clip in enumerate((9_000, 0, 14_000)):
        heard = (AudioPart("0.flac", "abc"),) if clip else ()
        turns = [Message("user", (*heard, TextPart("何と言いましたか。")))]
        if not generate:
            turns.append(Message("assistant", (TextPart("はい" * (number + 1)),)))
        noise = 0.1 * torch.randn(clip, generator=torch.Generator().manual_seed(number))
        rendered = model.llm.render(Conversation(tuple(turns)), generate=generate)
        samples.append(Sample(f"x/{number}", rendered, [noise] if clip else [], ["abc"] if clip else []))
    return collate(samples)


def step(model: SpeechLM, device: torch.device, dtype: torch.dtype) -> tuple[float, torch.Tensor]:
    """Return loss and gradients of a micro-batch, of a copy on a device."""
    there = copy.deepcopy(model).to(device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        scored = there(batch(model).to(device))
        loss = F.cross_entropy(scored.logits.float(), scored.targets)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in there.parameters() if p.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    return float(loss.detach()), torch.cat([gradient.flatten().cpu() for gradient in gradients])


def test_it_says_what_it_says_on_a_cpu(model: SpeechLM, device: torch.device) -> None:
    loss, gradient = step(model, device, torch.float32)
    expected, theirs = step(model, CPU, torch.float32)
    assert loss == pytest.approx(expected, rel=1e-3)
    assert (gradient - theirs).norm() < 1e-2 * theirs.norm()


def test_autocast_is_near(model: SpeechLM, device: torch.device) -> None:
    loss, gradient = step(model, device, torch.bfloat16)
    expected, theirs = step(model, device, torch.float32)
    assert loss == pytest.approx(expected, rel=0.03)
    assert F.cosine_similarity(gradient, theirs, dim=0) > 0.9


def test_it_generates_the_same(model: SpeechLM, device: torch.device) -> None:
    answers = []
    for there in (CPU, device):
        moved = copy.deepcopy(model).to(there)
        prompts = batch(model, generate=True).to(there)
        answers.append(moved.generate_ids(prompts, Generation(max_new_tokens=4)))
    # Where two logits are equal but for rounding, another may be the larger one.
    same = sum(a == b for a, b in zip(*answers, strict=True))
    assert same >= len(answers[0]) - 1


def test_weights_are_made_on_the_device(device: torch.device) -> None:
    """As the benchmarks do: of shapes of known models, without a copy on the CPU."""
    from kikimimi.costs.shapes import shapes_only
    from kikimimi.model.assembly import assemble
    from kikimimi.recipe import load_recipe, shipped_recipe

    recipe = load_recipe(shipped_recipe("quickstart"))
    with shapes_only(), torch.device(device):
        model = assemble(recipe, texts=lambda: ["あいう"], load_weights=False, measured=True)
    assert {p.device.type for p in model.parameters()} == {device.type}
