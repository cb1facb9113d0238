"""A step's loss is the mean over its tokens, pairs or clips, however micro-batches and ranks hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from webdataset.writer import TarWriter

from kikimimi.data.audio import encode_flac
from kikimimi.data.shards.indexing import build_index
from kikimimi.recipe import digest
from kikimimi.run.folder import RunFolder
from kikimimi.training.step_mean import StepMean
from kikimimi.training.train import train

from .conftest import Make, Ranks, Training, rewind

OBJECTIVES = {
    "ce": "ce",
    "dpo": "dpo",
    "distill": "distill",
    "own": "{name: distill, continuation: own, loss: ce, generate: {max_new_tokens: 5}}",
    "sum": "{name: sum, terms: {text: ce, near: {name: align, match: pool}}, weights: {near: 0.3}}",
}
NAMED = ("loss/", "validation_loss/")
SPREADS = {"1x4": (1, 4.0), "4x1": (4, 1.0), "2x2": (2, 2.0)}
"""Micro-batches of a step, and how much each holds [s]: four clips of a second are a step."""


def write_records(shard: Path, lengths: tuple[int, ...], seed: int) -> Path:
    """Write records of a second each, whose answers, rejected answers and transcripts are of any length."""
    shard.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    with TarWriter(str(shard), mtime=0) as tar:
        for number, length in enumerate(lengths):
            noise = rng.normal(0, 0.1, 16_000).astype(np.float32)
            heard = {"type": "audio", "audio": "0.flac", "text": "は" * (3 * number)}
            messages = [
                {"role": "user", "content": [heard]},
                {"role": "assistant", "content": "いえ" * length},
            ]
            record = json.dumps({"messages": messages, "rejected": "い" * (7 - number)}).encode()
            tar.write({"__key__": f"{number}", "json": record, "0.flac": encode_flac(noise, 16_000)})
    build_index(shard)
    return shard


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Four records to train on and to validate with, and three more of another dataset for that."""
    shard = write_records(tmp_path / "unequal" / "a.tar", (1, 9, 2, 30), seed=0)
    others = write_records(tmp_path / "unequal" / "b.tar", (17, 1, 4), seed=1)
    held_out = f"held_out: null, chat: {{shards: {shard}, task: chat}}, few: {{shards: {others}, task: chat}}"
    return [
        f"stages.asr.data={{tones: null, chat: {{shards: {shard}, task: chat}}}}",
        f"stages.asr.validate={{every: 2, data: {{{held_out}}}}}",
        "stages.asr.steps=2",
        "stages.asr.clip=0.1",  # of the whole step's gradient
        "llm.scratch.dropout=0",
        "llm.lora={rank: 2}",
        "adapter={name: ctc, vocabulary: bytes, loss_weight: 0.01}",
        "stages.asr.optimiser.epsilon=1",  # a step in proportion to the gradient: rounding stays what it is
        "trainer.cache_features=false",
    ]


def batch(spread: str, loss: str = "tokens") -> str:
    number, seconds = SPREADS[spread]
    return f"stages.asr.batch={{seconds: {seconds}, global: {number}, loss: {loss}}}"


def losses(run: RunFolder) -> list[dict[str, Any]]:
    kept = ("step", "loss", "validation_loss", "gradient_norm")
    lines = Training.curve(run.path)
    return [{k: v for k, v in line.items() if k in kept or k.startswith(NAMED)} for line in lines]


def assert_equal(found: RunFolder, expected: RunFolder) -> None:
    for line, other in zip(losses(found), losses(expected), strict=True):
        norms = [values.pop("gradient_norm", 0.0) for values in (line, other)]
        assert line == pytest.approx(other, rel=1e-6, abs=1e-6)
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_micro_batches_of_any_size(make_run: Make, options: list[str], objective: str) -> None:
    chosen = f"stages.asr.objective={OBJECTIVES[objective]}"
    runs = {
        spread: make_run(spread, *options, chosen, batch(spread), "trainer.log_every=1") for spread in SPREADS
    }
    for run in runs.values():
        train(run)
    assert sum("loss" in line for line in losses(runs["1x4"])) == 2
    assert_equal(runs["4x1"], runs["1x4"])
    assert_equal(runs["2x2"], runs["1x4"])


def test_several_steps_are_logged_as_one_mean(make_run: Make, options: list[str]) -> None:
    runs = [
        make_run(spread, *options, batch(spread), "trainer.log_every=2", "stages.asr.train.llm.lr=1.0e-9")
        for spread in ("1x4", "4x1")
    ]
    for run in runs:
        train(run)
    assert_equal(*runs)


def test_micro_batches_count_alike_where_asked(make_run: Make, options: list[str]) -> None:
    one, four = (make_run(spread, *options, batch(spread, "micro_batches")) for spread in ("1x4", "4x1"))
    train(one)
    train(four)
    assert losses(one)[0]["loss"] != pytest.approx(losses(four)[0]["loss"], rel=1e-3)


@pytest.mark.slow
def test_ranks(ranks: Ranks, make_run: Make, options: list[str]) -> None:
    """Two processes of two micro-batches each are one of four, and one of one."""
    chosen = [name for name in OBJECTIVES if name not in ("own", "distill")]
    runs = []
    for name in chosen:
        asked = f"stages.asr.objective={OBJECTIVES[name]}"
        train(make_run(f"one-{name}", *options, asked, batch("1x4")))
        runs += [
            (strategy, make_run(f"{strategy}-{name}", *options, asked, batch("4x1")))
            for strategy in ("ddp", "fsdp")
        ]
    ranks.train(*runs)
    for _, run in runs:
        one = RunFolder.open(run.path.with_name(f"one-{run.path.name.partition('-')[2]}"))
        assert_equal(run, one)


def test_a_term_without_any_unit_counts_nothing() -> None:
    mean = StepMean()
    mean.begin([], [[{"text": 3, "near": 0}, {"text": 1, "near": 0}]])
    terms = {"text": (torch.tensor(2.0), 3), "near": (torch.tensor(5.0), 0)}
    assert float(mean.weighted(terms)) == pytest.approx(2.0 * 3 / 4 * 2)


def test_a_run_that_began_before_the_option(make_run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("run", "stages.asr.batch.loss=micro_batches", "stages.asr.batch.global=4")
    train(run)
    whole, weights = Training.curve(run.path), run.weights("asr").read_bytes()
    rewind(run, 3)
    held = run.path / "recipe.yaml"
    text = held.read_text(encoding="utf-8")
    held.write_text(text.replace("      loss: micro_batches\n", ""), encoding="utf-8")
    assert len(held.read_text(encoding="utf-8")) < len(text)
    lock = json.loads((run.path / "lock.json").read_text(encoding="utf-8"))
    text = held.read_text(encoding="utf-8")
    lock["recipe"] = {"sha256": digest(text), "yaml": text}
    (run.path / "lock.json").write_text(json.dumps(lock), encoding="utf-8")
    capsys.readouterr()
    again = make_run("run", "stages.asr.batch.global=4")  # whose recipe says nothing, and so: tokens
    assert again.recipe == RunFolder.open(run.path).recipe == run.recipe
    train(again, locked=True)
    said = f"{run.path} began before there was batch.loss: it goes on with batch.loss: micro_batches"
    assert capsys.readouterr().err.count(said) == 1
    assert Training.curve(run.path) == whole
    assert run.weights("asr").read_bytes() == weights
