"""Operations counted on the meta device are those that torch counts in a real step on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kikimimi import LLM, Adapter, AdapterContext, Encoder, LLMContext, Padded
from kikimimi.contracts import registry
from kikimimi.contracts.vocabulary import BytesVocabulary
from kikimimi.costs import operations as costs_module
from kikimimi.costs.operations import measure_costs
from kikimimi.model.lora import add_lora
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.recipe.chosen import LoRA

WAYS = ("frozen", "trained", "lora")
ARCHITECTURES = ("qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "gpt2", "granite")
LLMS = [
    *((name, {}) for name in registry.names("llm") if name != "causal_lm"),
    *(("causal_lm", {"architecture": architecture}) for architecture in ARCHITECTURES),
]
FRAMES = 340


@pytest.fixture(autouse=True, scope="module")
def _measured_anew() -> None:
    # Once for all tests: the parts that a test does not look at are measured for the first one.
    costs_module._measured.clear()


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    # torch counts no operation of the CPU's fused attention, and every one of the plain form.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def real_step(part: nn.Module, arguments: tuple[Any, ...], outputs: Callable[[Any], list[Tensor]]) -> int:
    with counted() as counter:
        loss = sum((value.float().sum() for value in outputs(part(*arguments))), torch.zeros(()))
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops()


def prepare(part: nn.Module, way: str) -> None:
    if way == "lora":
        kinds: dict[str, set[bool]] = {}
        for name, module in part.named_modules():
            kinds.setdefault(name.rsplit(".", 1)[-1], set()).add(isinstance(module, nn.Linear))
        linears = {name for name, found in kinds.items() if found == {True}}
        if not linears:
            pytest.skip("no linear layer to adapt")
        add_lora(part, LoRA(rank=4, targets=sorted(linears)), where="part")
    for name, parameter in part.named_parameters():
        wanted = parameter.requires_grad and (way == "trained" or ".lora_" in name)
        parameter.requires_grad_(wanted)
    part.train()


def tiny_encoder(name: str = "whisper", way: str = "frozen") -> Encoder:
    component = registry.load("encoder", name)
    encoder: Encoder = component(component.tiny_config())
    prepare(encoder, way)
    if encoder.augmentation is not None:
        encoder.augmentation.eval()
    return encoder


def tiny_adapter(name: str, encoder: Encoder, way: str) -> Adapter:
    component = registry.load("adapter", name)
    context = AdapterContext(
        in_dim=encoder.dim,
        out_dim=64,
        frame_rate=50.0,
        num_concat_layers=encoder.num_concat_layers,
        vocabulary=BytesVocabulary(),
    )
    adapter: Adapter = component(component.tiny_config(), context)
    prepare(adapter, way)
    return adapter


def tiny_llm(name: str, options: dict[str, Any], way: str) -> LLM:
    component = registry.load("llm", name)
    llm: LLM = component(component.tiny_config(component.Config(**options)), LLMContext())
    prepare(llm, way)
    return llm


def model_of(
    encoder: Encoder | None = None, adapter: Adapter | None = None, llm: LLM | None = None
) -> SpeechLM:
    encoder = encoder or tiny_encoder()
    return SpeechLM(
        encoder, adapter or tiny_adapter("mlp", encoder, "frozen"), llm or tiny_llm("llama", {}, "frozen")
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", registry.names("encoder"))
def test_encoders(name: str, way: str) -> None:
    encoder = tiny_encoder(name, way)
    cost = measure_costs(model_of(encoder=encoder), "fp32").encoder
    assert cost.problem is None
    samples = 4 * encoder.sample_rate
    clip = Padded(0.1 * torch.randn(1, samples), torch.tensor([samples]))
    real = real_step(encoder, (clip,), lambda output: [output.values])
    assert cost.flops(encoder.num_frames(samples)) == pytest.approx(real, rel=0.01)
    assert (cost.backward(100) > 0) == (way != "frozen")


@pytest.mark.parametrize(
    ("way", "heard"), [("frozen", True), ("trained", False), ("trained", True), ("lora", False)]
)
@pytest.mark.parametrize("name", registry.names("adapter"))
def test_adapters(name: str, way: str, heard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny_encoder("whisper", "trained" if heard else "frozen")
    if name == "tltr":
        component = registry.load("encoder", "whisper")
        encoder = component(component.tiny_config(component.Config(layers=[0, 1, 2])))
        encoder.requires_grad_(heard)
    adapter = tiny_adapter(name, encoder, way)
    cost = measure_costs(model_of(encoder=encoder, adapter=adapter), "fp32").adapter
    assert cost.problem is None
    transcript = "a"
    if hasattr(adapter, "ctc"):
        # Every frame another label: as many tokens as there can be.
        labels = torch.arange(FRAMES)[None] % 2
        compress: Any = adapter.compress
        monkeypatch.setattr(adapter, "compress", lambda frames, real, _: compress(frames, real, labels))
    if name == "cif":
        transcript = "a" * FRAMES
    features = Padded(torch.randn(1, FRAMES, encoder.dim, requires_grad=heard), torch.tensor([FRAMES]))
    real = real_step(
        adapter,
        (features, *([[transcript]] if adapter.uses_transcripts else [])),
        lambda output: [output.tokens.values, *output.losses.values()],
    )
    assert cost.flops(FRAMES) == pytest.approx(real, rel=0.01)


@pytest.mark.parametrize(
    ("way", "adapted"), [("frozen", False), ("frozen", True), ("trained", True), ("lora", True)]
)
@pytest.mark.parametrize(("name", "options"), LLMS, ids=[" ".join([n, *o.values()]) for n, o in LLMS])
def test_llms(name: str, options: dict[str, Any], way: str, adapted: bool) -> None:
    encoder = tiny_encoder()
    adapter = tiny_adapter("mlp", encoder, "trained" if adapted else "frozen")
    llm = tiny_llm(name, options, way)
    cost = measure_costs(model_of(encoder, adapter, llm), "fp32").llm
    assert cost.problem is None
    positions, answer = 130, 25
    embeddings = torch.randn(positions, llm.dim, requires_grad=adapted)
    select = torch.arange(positions - answer, positions)
    real = real_step(llm, (embeddings, torch.tensor([positions]), select), lambda output: [output])
    x = positions if llm.causal else positions - answer + 1
    assert cost.flops(x, answer) == pytest.approx(real, rel=0.01)


class Unmeasurable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 64, bias=False)
        self.table = nn.Embedding(100, 32)

    def forward(self, features: Padded) -> Tensor:
        if float(features.values.sum()) > 0:  # content, which is not there
            return features.values
        out: Tensor = self.linear(features.values)
        return out


def test_what_does_not_run_on_the_meta_device_is_counted_by_its_matrices() -> None:
    part = Unmeasurable()
    values = torch.empty(1, 10, 32, device="meta", requires_grad=True)
    cost = costs_module._measure(
        part, ((0, 0), (1, 0)), [(10, 0), (20, 0)], lambda _: (Padded(values, torch.tensor([10])),), None
    )
    assert cost.problem is not None
    assert "meta tensors" in cost.problem
    assert cost.forward(10) == 2 * 32 * 64 * 10
    assert cost.backward(10) == 2 * cost.forward(10)


def test_measuring_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs_module, "_measured", {})
    model = model_of(llm=tiny_llm("llama", {}, "trained"))
    before = {
        name: (value.clone(), value.requires_grad) for name, value in model.state_dict(keep_vars=True).items()
    }
    state, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    measure_costs(model, "bf16")
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    for name, value in model.state_dict(keep_vars=True).items():
        assert torch.equal(value, before[name][0])
        assert value.requires_grad == before[name][1]
        assert value.grad is None


def test_kept_activations_are_those_that_autograd_saves() -> None:
    llm = tiny_llm("llama", {}, "trained")
    cost = measure_costs(model_of(llm=llm), "fp32").llm
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in llm.parameters()}
    alive = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            alive.append(storage)
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        llm(torch.randn(130, 64), torch.tensor([130]), torch.arange(105, 130))
    assert cost.saved(130, 25) == pytest.approx(sum(kept.values()), rel=0.02)
