"""Training on a GPU: as on a CPU, exact when it goes on, sharded, recomputed, by preferences."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kikimimi.evaluation.evaluate import evaluate
from kikimimi.run.folder import RunFolder
from kikimimi.training.train import train

from .conftest import Make

pytestmark = pytest.mark.gpu
NO_DROPOUT = "llm.scratch.dropout=0"


def losses(run: RunFolder) -> list[float]:
    lines = map(json.loads, Path(run.metrics).read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def test_it_trains_as_on_a_cpu(make_run: Make) -> None:
    here, there = make_run("gpu", NO_DROPOUT), make_run("cpu", NO_DROPOUT, accelerator="cpu")
    train(here)
    train(there)
    assert losses(here) == pytest.approx(losses(there), rel=1e-2)
    (score,) = evaluate(here)["held"].values()
    assert score.value >= 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_goes_on_exactly(make_run: Make, precision: str) -> None:
    run = make_run("run", f"trainer.precision={precision}")
    train(run)
    whole, weights = losses(run), load_file(run.weights("asr"))
    shutil.rmtree(run.path / "weights")
    for step in run.checkpoints("asr").glob("step-*"):
        if int(step.name.removeprefix("step-")) > 2:
            shutil.rmtree(step)
    train(run)
    assert losses(run) == whole
    for name, tensor in load_file(run.weights("asr")).items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.filterwarnings("ignore")  # torch's own, of the collectives
def test_sharded_over_one_rank(make_run: Make) -> None:
    plain, sharded = make_run("plain", NO_DROPOUT), make_run("sharded", NO_DROPOUT, "trainer.strategy=fsdp")
    train(plain)
    try:
        train(sharded)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert losses(sharded) == pytest.approx(losses(plain), rel=1e-3)


def test_recomputing_changes_nothing(make_run: Make) -> None:
    plain = make_run("plain")
    again = make_run("again", "trainer.activation_checkpointing=true")
    train(plain)
    train(again)
    assert losses(again) == pytest.approx(losses(plain), rel=1e-4)


def test_preferences_begin_where_the_reference_is(make_run: Make) -> None:
    run = make_run("dpo", "stages.asr.objective=dpo", "trainer.precision=bf16")
    train(run)
    assert losses(run)[0] == pytest.approx(0.693147, abs=1e-4)


def test_fp16_scales_its_gradients(make_run: Make, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("fp16 is refused on a CPU")
    run = make_run("fp16", "trainer.precision=fp16")
    train(run)
    assert len(losses(run)) == 6
