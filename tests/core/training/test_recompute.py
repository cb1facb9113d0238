"""Activation checkpointing changes what is kept, and no number."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kikimimi.model.assembly import assemble
from kikimimi.run.metrics import read_metrics
from kikimimi.training.parallel.recompute import Recomputed, recompute
from kikimimi.training.train import train

from .conftest import Make

LORA = "llm.lora={rank: 2, alpha: 4, dropout: 0.3, modality: audio}"
TRAIN_LORA = "stages.asr.train={adapter: {lr: 1.0e-3}, llm: {lr: 2.0e-3, part: lora}}"
OWN = "{name: distill, loss: ce, continuation: own, generate: {max_new_tokens: 4}}"
CHAT = "stages.asr.data={{tones: null, chat: {{shards: {conversations}, task: chat}}}}"
OPTIONS = {
    "lora": [LORA, TRAIN_LORA, CHAT],
    # Two terms run the LLM over conversations of other lengths, both before anything goes backward.
    "sum": [LORA, TRAIN_LORA, f"stages.asr.objective={{name: sum, terms: {{text: ce, own: {OWN}}}}}"],
    "all": [
        CHAT,
        "stages.asr.train={encoder: {lr: 1.0e-3}, adapter: {lr: 1.0e-3}, llm: {lr: 1.0e-3}}",
    ],
    "qformer": [
        CHAT,
        "adapter={name: qformer, hidden_dim: 32, num_heads: 2, ffn_dim: 64, dropout: 0.3}",
        "stages.asr.train={adapter: {lr: 1.0e-3}, llm: null}",
        "trainer.precision=bf16",
    ],
    "statistics": [
        "encoder={name: parakeet, weights: random, "
        "sizes: {dim: 32, num_layers: 2, num_heads: 2, ffn_dim: 64, kernel_size: 3, subsampling: 4}}",
        "stages.asr.train={encoder: {lr: 1.0e-3}, adapter: {lr: 1.0e-3}, llm: null}",
        "stages.asr.steps=3",
        "stages.asr.validate.every=0",
    ],
}


@pytest.mark.parametrize(
    "options",
    # The term "text" of "sum" trains the same as "lora".
    [
        pytest.param(options, id=name, marks=pytest.mark.slow if name in ("lora", "all") else ())
        for name, options in OPTIONS.items()
    ],
)
def test_the_same_numbers(make_run: Make, conversations: str, options: list[str]) -> None:
    """With dropout in all places, updates that act in some conversations only, and text alone."""
    curves, weights = [], []
    for recomputed in ("false", "true"):
        run = make_run(
            f"run-{recomputed}",
            *(CHAT.format(conversations=conversations) if option is CHAT else option for option in options),
            "stages.asr.batch.seconds=6",
            f"trainer.activation_checkpointing={recomputed}",
        )
        train(run)
        curves.append(
            [(line["loss"], line["gradient_norm"]) for line in read_metrics(run.metrics) if "loss" in line]
        )
        weights.append(load_file(run.weights("asr")))
    assert curves[0] == curves[1]
    assert all(tensor.equal(weights[1][name]) for name, tensor in weights[0].items())


class Counted(nn.Module):
    """A block with every kind of state that a forward pass may change, and one that it reads besides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 1)
        self.norm = nn.BatchNorm1d(3)
        self.bare = nn.BatchNorm1d(3, affine=False)
        self.register_buffer("level", torch.zeros(3, 1))
        self.level: Tensor

    def forward(self, frames: Tensor) -> Tensor:
        normed = self.bare(self.norm(self.conv(frames)))
        out: Tensor = normed * torch.tanh(1 + self.level)
        self.level = self.level + normed.detach().mean((0, 2))[:, None]  # anew, not in place
        return out


def test_running_statistics_count_a_batch_once() -> None:
    """Two passes before the backward pass, as preference pairs have them: each finds what it met first."""
    torch.manual_seed(0)
    plain = Counted()
    again = deepcopy(plain)
    recompute([again], None)
    batches = [torch.randn(2, 3, 5, requires_grad=True) for _ in range(2)]
    for block in (plain, again):
        (block(batches[0]).square().sum() * block(batches[1]).sum()).backward()
    assert plain.norm.num_batches_tracked == 2
    for name, buffer in plain.named_buffers():
        assert torch.equal(again.get_buffer(name), buffer), name
    for name, parameter in plain.named_parameters():
        grad = again.get_parameter(name).grad
        assert grad is not None
        assert parameter.grad is not None
        assert torch.equal(grad, parameter.grad), name


def test_blocks_run_again_and_keep_their_names(make_run: Make) -> None:
    model = assemble(make_run("run").recipe, texts=lambda: ["a"])
    names = [name for name, _ in model.named_parameters()]
    blocks = model.blocks()
    recompute(blocks, model.gate)
    assert [name for name, _ in model.named_parameters()] == names
    layer = next(block for block in blocks if "WhisperEncoderLayer" in type(block).__name__)
    assert isinstance(layer.forward, Recomputed)
    runs = []
    layer.get_submodule("fc1").register_forward_hook(lambda *_: runs.append(1))
    frames = nn.Parameter(next(layer.parameters()).new_ones(3, 32))
    layer(frames, [3]).sum().backward()
    assert len(runs) == 2
    layer.requires_grad_(False)(frames.detach(), [3])
    assert len(runs) == 3
