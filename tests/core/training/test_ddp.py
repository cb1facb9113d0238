"""A run goes on with another number of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kikimimi.run.folder import RunFolder
from kikimimi.training.train import train

from .conftest import Make, Ranks, Training, assert_same, rewind


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(make_run: Make, conversations: str) -> None:
    """From one process to two and back: the same global batches. Some hold text alone: no rank waits."""
    run = make_run(
        "run",
        f"stages.asr.data={{chat: {{shards: {conversations}, task: chat}}}}",
        "stages.asr.batch={seconds: 8, global: 2}",
        "llm.scratch.dropout=0",
    )
    train(run)
    whole = Training.curve(run.path)
    assert Training.steps(run.path) == 8
    rewind(run, 3)
    on_two = ["trainer.devices=2", "trainer.strategy=ddp"]
    done = subprocess.run(
        [sys.executable, "-m", "kikimimi.cli", "train", run.path, *on_two],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.stderr.count("stage asr: going on after step 3") == 1  # not by each process
    assert_same(Training.curve(run.path), whole)
    rewind(run, 6)
    train(RunFolder.open(run.path))
    assert_same(Training.curve(run.path), whole)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_draw_numbers_of_their_own(make_run: Make, ranks: Ranks, strategy: str) -> None:
    """Dropout and SpecAugment, with a frozen encoder, on two ranks, and again from a checkpoint."""
    run = make_run("run", "encoder.spec_augment={freq_width: 20}", "stages.asr.validate.every=0")

    def drawn(of: str) -> list[list[int]]:
        file = run.path / of
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.unlink()
        return lines

    ranks.train((strategy, run), spoil="draws")
    whole, weights = Training.curve(run.path), run.weights("asr").read_bytes()
    first, second = drawn("0-of-2"), drawn("1-of-2")
    assert [line[0] for line in first] == [line[0] for line in second] == list(range(8))
    everything = [number for line in first + second for number in line[1:]]
    assert len(set(everything)) == 2 * 8 * 2  # none comes twice: on no rank, in no step

    rewind(run, 3)
    ranks.train((strategy, run), spoil="draws")
    assert (drawn("0-of-2"), drawn("1-of-2")) == (first[3:], second[3:])
    assert Training.curve(run.path) == whole
    assert run.weights("asr").read_bytes() == weights
