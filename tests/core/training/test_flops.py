"""What the meter counts of a micro-batch is what torch counts, and training logs its share of the device."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kikimimi import AdapterContext, LLMContext, Rendered
from kikimimi.contracts import registry
from kikimimi.contracts.batch import Batch, Sample, collate
from kikimimi.costs.matrix_rate import matrix_rate
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.run.metrics import read_metrics
from kikimimi.training.flops import FlopMeter
from kikimimi.training.log_interval import LogInterval
from kikimimi.training.train import train

from .conftest import Make


def build(llm_name: str, trained: tuple[str, ...]) -> SpeechLM:
    torch.manual_seed(0)
    encoder_class, adapter_class, llm_class = (
        registry.load(kind, name)
        for kind, name in (("encoder", "whisper"), ("adapter", "mlp"), ("llm", llm_name))
    )
    encoder, llm = (
        encoder_class(encoder_class.tiny_config()),
        llm_class(llm_class.tiny_config(), LLMContext()),
    )
    context = AdapterContext(in_dim=encoder.dim, out_dim=llm.dim, frame_rate=encoder.frame_rate)
    model = SpeechLM(encoder, adapter_class(adapter_class.tiny_config(), context), llm)
    for part in ("encoder", "adapter", "llm"):
        for parameter in getattr(model, part).parameters():
            parameter.requires_grad_(parameter.requires_grad and part in trained)
    return model


def sample(name: str, seconds: list[float], prompt: int, answer: int) -> Sample:
    clips = [0.1 * torch.randn(round(16_000 * length)) for length in seconds]
    ids = [7] * (len(clips) + prompt + answer)
    loss = [False] * (len(clips) + prompt) + [True] * answer
    return Sample(name, Rendered(ids, loss, list(range(len(clips)))), clips)


def mixed() -> Batch:
    # Clips of one length: what parts compute for padding is no work that counts.
    samples = [("a", [4.0], 20, 30), ("b", [4.0, 4.0], 3, 9), ("c", [], 40, 70), ("d", [4.0], 5, 12)]
    return collate([sample(*one) for one in samples])


def both(model: SpeechLM, batch: Batch, *, grad: bool = True) -> tuple[float, int]:
    """Return what the meter and what torch count in one step."""
    meter, interval = FlopMeter(model, "fp32"), LogInterval()
    with (
        nullcontext() if grad else torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        with meter.counting(interval):
            scored = model(batch)
        loss = F.cross_entropy(scored.logits, scored.targets)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    return interval.flops, counter.get_total_flops()


@pytest.mark.parametrize(
    "trained", [("adapter",), ("adapter", "llm"), ("llm",), ("encoder", "adapter")], ids="-".join
)
@pytest.mark.parametrize("llm", ["llama", "causal_lm"])
def test_a_step_is_counted_within_a_percent(llm: str, trained: tuple[str, ...]) -> None:
    found, real = both(build(llm, trained), mixed())
    assert found == pytest.approx(real, rel=0.01)


def test_sequences_of_an_encoder_decoder_are_told_apart() -> None:
    # Of one length each: the encoder-decoder pads, and what it computes for padding does not count.
    batch = collate([sample(name, [4.0], 20, 30) for name in "abc"])
    found, real = both(build("seq2seq", ("adapter", "llm")), batch)
    assert found == pytest.approx(real, rel=0.01)


def test_without_gradients_only_the_forward_pass_counts() -> None:
    found, real = both(build("llama", ("adapter", "llm")), mixed(), grad=False)
    assert found == pytest.approx(real, rel=0.01)


def test_text_alone_passes_a_frozen_llm_forward_only() -> None:
    model = build("llama", ("adapter",))
    found, real = both(model, collate([sample("a", [], 60, 40), sample("b", [], 9, 50)]))
    assert found == pytest.approx(real, rel=0.01)


def test_only_what_is_asked_for_counts() -> None:
    model = build("llama", ("adapter",))
    meter, interval = FlopMeter(model, "fp32"), LogInterval()
    model(mixed())
    with meter.counting(interval):
        pass
    assert interval.flops == 0


def test_the_matrix_rate_is_measured_once() -> None:
    device = torch.device("cpu")
    rate = matrix_rate(device, "fp32")
    assert rate == matrix_rate(device, "fp32")
    assert 1e8 < rate < 1e14


def test_training_logs_its_share_of_the_device(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kikimimi.training.flops.matrix_rate", lambda device, precision: 1e9)
    run = make_run("metered", "stages.asr.steps=2")
    train(run)
    lines = [line for line in read_metrics(run.metrics) if "loss" in line]
    assert lines
    for line in lines:
        assert 0 < line["flop_utilisation"] < 1000
