"""Plans of recipes: the published figures, memory, days, and changes that make a stage fit."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from kikimimi.cli import app
from kikimimi.contracts import registry
from kikimimi.costs.meta_pass import measure_pass
from kikimimi.costs.operations import measure_costs
from kikimimi.costs.shapes import shapes_only
from kikimimi.errors import RequestError
from kikimimi.model.trainable import freeze_all_but, trainable_names
from kikimimi.planning.advice import Adviser
from kikimimi.planning.gpus import GPUS, find_gpu
from kikimimi.planning.plan import Hardware, Planner, StageForecast
from kikimimi.planning.workload import Workload
from kikimimi.recipe import Recipe, load_recipe
from kikimimi.recipe.resolve import recipes_folder

SHIPPED = recipes_folder() / "llm_jp_4_8b_ja.yaml"
SMALL = """
name: small
encoder:
  name: whisper
  weights: random
  sizes: {dim: 64, num_layers: 2, num_heads: 2, ffn_dim: 128}
  fixed: ["*"]
adapter: {name: mlp, hidden_dim: 32}
llm:
  name: llama
  weights: random
  scratch: {dim: 64, num_layers: 8, num_heads: 2, ffn_dim: 128, tokenizer: bytes, tie_embeddings: false}
stages:
  first:
    train: {adapter: {}, llm: {}}
    data: {speech: {shards: "none/*.tar", task: asr}}
    batch: {seconds: 60, global: 4}
    steps: 100
  second:
    train: {adapter: {}, llm: {}}
    objective: dpo
    data: {speech: {shards: "none/*.tar", task: chat}}
    batch: {tokens: 1000, global: 4}
    epochs: 1
trainer: {precision: bf16, strategy: ddp, devices: 2}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def plan(path: Path, stage: str, *overrides: str, workload: Workload | None = None) -> StageForecast:
    return Planner(workload or Workload()).plan(load_recipe(path, overrides), stage)


@pytest.mark.parametrize(
    ("size", "window", "clip"),
    [
        ("tiny", 0.037, 0.005),
        ("base", 0.087, 0.013),
        ("small", 0.344, 0.056),
        ("medium", 1.138, 0.192),
        ("large-v3", 2.274, 0.396),
    ],
)
def test_whisper_costs_what_is_published(size: str, window: float, clip: float) -> None:
    """[TFLOP] of 30 s and of 6 s; the published figures are rounded to three decimals."""
    from kikimimi import Padded

    component = registry.load("encoder", "whisper")
    with shapes_only(), torch.device("meta"):
        encoder = component(component.Config(weights=f"openai/whisper-{size}"))
    encoder.requires_grad_(False)
    for seconds, expected in ((30, window), (6, clip)):
        audio = Padded(torch.empty(1, seconds * 16000, device="meta"), torch.tensor([seconds * 16000]))
        assert measure_pass(encoder, audio, half=None).forward / 1e12 == pytest.approx(
            expected, abs=6e-4, rel=1e-2
        )


def test_a_six_second_utterance_costs_what_is_published() -> None:
    """Whisper-large-v3, MLP 5120-4096-4096, LLM-jp-4 8B: 30 tokens of prompt, 25 of answer.

    The published figures count half of the LLM's attention, as a causal kernel may; torch's counter, and so
    this one, counts all of it: 0.4 % of the whole at this length.
    """
    changes = ["encoder.pad=none", "adapter={name: mlp, downsample: 4, pool: stack, hidden_dim: 4096}"]
    found = plan(SHIPPED, "align", *changes, "stages.align.batch.seconds=6")
    assert found.positions == 130
    published = {"encoder": 0.396, "adapter": 0.014, "llm": 3.723}
    for part, expected in published.items():
        assert found.flops[part] / 1e12 == pytest.approx(expected, rel=0.05 if part == "adapter" else 0.01)
    assert sum(found.flops.values()) / 1e12 == pytest.approx(4.13, rel=0.01)
    full = plan(SHIPPED, "sft", *changes, "stages.sft.batch.seconds=6")
    assert sum(full.flops.values()) / 1e12 == pytest.approx(5.99, rel=0.01)


def test_days_and_hours(small: Path) -> None:
    recipe = load_recipe(small)
    found = Planner(hardware=Hardware(gpus=4, gpu="a100", utilisation=0.5)).plan(recipe, "first")
    assert found.audio_hours == pytest.approx(100 * 4 * 60 / 3600)
    assert found.clips == 10
    total = sum(found.flops.values()) * 4 * 100
    assert found.days == pytest.approx(total / (4 * 312e12 * 0.5) / 86400)
    assert found.flops_per_audio_hour == pytest.approx(sum(found.flops.values()) * 60)
    full = Planner(hardware=Hardware(gpus=4, gpu="a100", utilisation=0.5))
    in_full = full.plan(load_recipe(small, ["trainer.precision=fp32"]), "first")
    assert in_full.days == pytest.approx((found.days or 0) * 312 / 19.5)
    assert Planner().plan(recipe, "second").days is None


def test_memory_of_a_rank(small: Path) -> None:
    found = plan(small, "first")
    memory, parameters = found.memory, {p: c.total for p, c in found.counts.items()}
    trained = parameters["adapter"] + parameters["llm"]
    assert found.counts["encoder"].trainable == 0
    assert memory.weights == pytest.approx(4 * sum(parameters.values()), rel=1e-2)  # and a few buffers
    assert memory.gradients == 2 * 4 * trained  # the second time in DDP's buckets
    assert memory.optimiser == 2 * 4 * trained
    assert memory.logits == 10 * 25 * 262 * (2 + 4 + 4)
    assert memory.gathered == memory.reference == 0
    matrices = trained - 262 * 64 - 17 * 64  # neither the table nor the norms
    assert memory.copies == pytest.approx(2 * matrices, rel=0.02)
    lasting = memory.weights + memory.gradients + memory.optimiser
    assert memory.total == lasting + max(memory.copies + memory.activations + memory.logits, memory.step)
    alone = plan(small, "first", "trainer.devices=1").memory
    assert alone.gradients == 4 * trained
    doubled = plan(small, "first", "stages.first.batch.seconds=120").memory
    assert doubled.activations == pytest.approx(2 * memory.activations, rel=1e-3)
    assert doubled.logits == 2 * memory.logits


def test_sharded_memory(small: Path) -> None:
    recipe = load_recipe(small)
    sharded = replace(recipe, trainer=replace(recipe.trainer, strategy="fsdp", devices=4))
    whole, piece = Planner().plan(recipe, "first").memory, Planner().plan(sharded, "first").memory
    assert piece.optimiser == whole.optimiser / 4
    assert piece.gradients == whole.gradients / 2 / 4
    assert piece.weights < whole.weights / 3.5
    assert piece.copies == 0
    # Table and head (262 x 64 each) are in no block; two of eight layers are there at a time.
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert piece.gathered > 2 * (2 * 262 * 64 + 2 * layer) + 4 * (2 * 262 * 64 + layer)
    assert piece.gathered < 3 * whole.weights


def test_preferences_cost_two_sequences_and_a_reference(small: Path) -> None:
    change = ["stages.second.objective=ce"]
    pairs, plain = plan(small, "second"), plan(small, "second", *change)
    trained = sum(count.trainable for count in pairs.counts.values())
    assert pairs.memory.reference == 4 * trained
    assert plain.memory.reference == 0
    assert pairs.memory.logits == 2 * plain.memory.logits
    # Forward and backward are three parts, the reference's forward pass is a fourth, of twice the sequences.
    assert pairs.flops["llm"] == pytest.approx(2 * plain.flops["llm"] * 4 / 3, rel=0.01)
    lora = ["llm.lora={rank: 4}", "stages.second.train.llm.part=lora", "stages.first.train.llm=null"]
    lora.append("llm.fixed=['*']")
    updates = plan(small, "second", *lora)
    assert updates.memory.reference == 4 * updates.counts["adapter"].trainable


def test_what_would_stay_random_is_told_before_training(small: Path) -> None:
    with pytest.raises(RequestError, match=r"encoder: no source fills model\.conv1\.weight"):
        plan(small, "first", "encoder.fixed=null")


def test_tokens_fill_a_micro_batch(small: Path) -> None:
    found = plan(small, "second", "stages.second.objective=ce")
    assert found.clips == 1000 // (75 + 30 + 25)
    assert found.positions == found.clips * 130
    long = plan(small, "first", workload=Workload(clip_seconds=500, prompt_tokens=1, answer_tokens=1))
    assert (long.clips, long.audio_seconds) == (2, 60)  # the encoder takes 30 s


def test_checkpointing_takes_a_forward_pass_more_and_less_memory(small: Path) -> None:
    recipe, planner = load_recipe(small), Planner()
    before = planner.plan(recipe, "first")
    after = planner.plan(load_recipe(small, ["trainer.activation_checkpointing=true"]), "first")
    assert after.flops["llm"] == pytest.approx(before.flops["llm"] * 4 / 3, rel=0.01)
    assert after.flops["encoder"] == before.flops["encoder"]
    assert after.memory.activations < before.memory.activations / 3


def resolver(path: Path, calls: list[tuple[str, ...]]) -> Any:
    def resolve(changes: Sequence[str]) -> Recipe:
        calls.append(tuple(changes))
        return load_recipe(path, list(changes))

    return resolve


def test_advice_is_planned_not_guessed(small: Path) -> None:
    planner, calls = Planner(), []  # type: ignore[var-annotated]
    before = planner.plan(load_recipe(small), "first").memory.total
    ways = Adviser(resolver(small, calls), planner, "first").ways(0.8 * before)
    assert ways
    for way in ways:
        assert way.changes in calls
        assert way.total <= 0.8 * before
        assert planner.plan(load_recipe(small, way.changes), "first").memory.total == way.total
    changed = [{change.partition("=")[0] for change in way.changes} for way in ways]
    for one in changed:
        assert not any(other < one for other in changed)
    batches = next(way for way in ways if any("batch.seconds" in change for change in way.changes))
    assert batches.changes == ("stages.first.batch.seconds=30", "stages.first.batch.global=8")
    assert Adviser(resolver(small, calls), planner, "first").ways(1000) == []


@pytest.mark.slow
def test_advice_for_the_shipped_recipe() -> None:
    planner = Planner()
    adviser = Adviser(resolver(SHIPPED, []), planner, "sft")
    ways = adviser.ways(80e9)
    lora = next(way for way in ways if "stages.sft.train.llm.part=lora" in way.changes)
    assert "stages.sft.dtype.llm=bf16" in lora.changes
    assert lora.total < 50e9


def test_gpus() -> None:
    assert find_gpu("H100").peak("bf16") == 989.4e12
    assert find_gpu("h100").peak("fp32") == 66.9e12
    with pytest.raises(
        RequestError, match=r"--gpu: 'h10' is not in the table. Did you mean 'h100'\? GPUs: a100"
    ):
        find_gpu("h10")
    for name in GPUS:
        assert name in CliRunner().invoke(app, ["plan", "--help"], env={"COLUMNS": "200"}).output


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--gpus", "0", "--gpus: must be at least 1, not 0"),
        ("--utilisation", "1.5", "--utilisation: must be above 0 and at most 1, not 1.5"),
        ("--clip-seconds", "0", "--clip-seconds: must be above 0, not 0.0"),
        ("--prompt-tokens", "-1", "--prompt-tokens: must be at least 1, not -1"),
        ("--answer-tokens", "0", "--answer-tokens: must be at least 1, not 0"),
        ("--gpu", "none", "--gpu: 'none' is not in the table"),
    ],
)
def test_wrong_options(small: Path, option: str, value: str, problem: str) -> None:
    result = CliRunner().invoke(app, ["plan", str(small), option, value])
    assert isinstance(result.exception, RequestError)
    assert problem in str(result.exception)


def lines_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    return lines


def test_the_command_prints_tables_of_80_columns(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("advice", "page"):
        monkeypatch.setattr(f"kikimimi.planning.{module}.MEMORY", (0.04, 0.08))
    lines = lines_of([str(small), "trainer.devices=4", "stages.second=null"], monkeypatch)
    page = "\n".join(lines)
    for said in ("small: 4 ranks (ddp), bf16", "stage first", "TFLOP per audio hour", "time on 4 x H100"):
        assert said in page
    assert "does not fit 0.04 GB; it would with" in page
    assert re.search(r"^  0\.0\d+ GB: (trainer|stages\.first|'llm)\.", page, re.MULTILINE)


@pytest.mark.slow
def test_the_page_of_the_shipped_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    page = "\n".join(lines_of([str(SHIPPED), "trainer.devices=4", "trainer.strategy=ddp"], monkeypatch))
    for said in ("4 ranks (ddp), bf16", "8,590,200,832", "fits 80 GB, 141 GB", "does not fit 24 GB"):
        assert said in page
    assert re.search(r"GB: trainer\.strategy=fsdp", page)


def test_the_command_prints_json(small: Path) -> None:
    result = CliRunner().invoke(app, ["plan", str(small), "--json", "--gpus", "3"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert (found["recipe"], found["gpus"]) == ("small", 3)
    first, second = found["stages"]
    assert first["memory"]["total"] > first["memory"]["weights"] > 0
    assert first["does_not_fit"] == {}
    assert (second["objective"], second["days"]) == ("dpo", None)
    assert first["parameters"]["encoder"]["trainable"] == 0


def test_a_vocabulary_that_the_data_makes_is_said_to_be_missing() -> None:
    quickstart = recipes_folder() / "quickstart.yaml"
    found = plan(quickstart, "asr", "stages.asr.data.sentences.shards=nowhere/*.tar")
    (note,) = found.notes
    assert note.startswith("without the tokens that the training data will bring")


def test_what_cannot_run_on_the_meta_device_is_noted(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = registry.load("adapter", "mlp")
    plain = adapter.forward

    def forward(self: Any, features: Any) -> Any:
        if float(features.values.sum()) == 0:
            raise ValueError
        return plain(self, features)

    monkeypatch.setattr(adapter, "forward", forward)
    found = plan(small, "first", "adapter.hidden_dim=48")
    (note,) = found.notes
    assert note.startswith("adapter: counted by its matrices, without activations")


def test_costs_are_those_of_what_the_stage_trains() -> None:
    recipe, planner = load_recipe(SHIPPED), Planner()
    model, _ = planner.model(recipe.at("align"))
    trained = trainable_names(model, recipe.stages["align"], where="align")
    freeze_all_but(model, trained["adapter"])
    costs = measure_costs(model, "bf16")
    assert costs.encoder.backward(300) == 0
    assert costs.llm.backward(130, 25) == pytest.approx(costs.llm.forward(130, 25), rel=0.01)
