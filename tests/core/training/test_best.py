from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kikimimi.errors import DamagedError, RunError
from kikimimi.recipe import Stage, load_recipe
from kikimimi.recipe.schema import EarlyStop
from kikimimi.run.folder import RunFolder
from kikimimi.training.callbacks.validation import Best
from kikimimi.training.lengthen import lengthen
from kikimimi.training.train import train

from .conftest import Make, Training, rewind

STAGE = """
name: small
encoder: {{name: whisper, weights: random}}
adapter: {{name: mlp}}
llm: {{name: llama}}
stages:
  asr:
    train: {{adapter: {{}}}}
    data: {{x: {{shards: x.tar, task: asr}}}}
    steps: 100
    checkpoint: {{keep_best: {keep}, leave: {leave}}}
    early_stop: {early}
    validate: {{every: 10, data: {{y: {{shards: y.tar, task: asr}}}}}}
"""


def stage(tmp_path: Path, keep: int = 0, early: str = "null", leave: str = "null") -> Stage:
    path = tmp_path / "r.yaml"
    path.write_text(STAGE.format(keep=keep, early=early, leave=leave), encoding="utf-8")
    return load_recipe(path).stages["asr"]


def test_the_lowest_losses_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "best"

    def save(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.touch()

    best = Best(folder, stage(tmp_path, keep=2))
    assert best.path() is None
    seen = []
    for step, loss in [(10, 3.0), (20, float("nan")), (30, 2.0), (40, 2.5), (50, 2.0), (60, 9.0)]:
        best.add(step, loss, save, delete=True)
        seen.append(sorted(int(path.stem.removeprefix("step-")) for path in folder.iterdir()))
    assert seen == [[10], [10], [10, 30], [30, 40], [30, 50], [30, 50]]
    assert best.path() == folder / "step-00000030.safetensors"
    best.add(30, 8.0, save, delete=True)  # measured again: a run that went on from before it
    assert best.steps() == [50, 40]


@pytest.mark.parametrize(
    ("losses", "early", "stalled"),
    [
        ([3.0, 2.0, 1.0], "{patience: 1}", False),
        ([3.0, 2.0, 2.0], "{patience: 1}", True),
        ([3.0, 2.0, 2.5], "{patience: 2}", False),
        ([3.0, 2.0, 2.5, 2.1], "{patience: 2}", True),
        ([3.0, 2.0, 2.5, 1.9], "{patience: 2}", False),
        ([3.0, 2.9, 2.8], "{patience: 2, min_delta: 0.5}", True),
        ([3.0, 2.9, 2.4], "{patience: 2, min_delta: 0.5}", False),
        ([3.0, 4.0, 5.0], "null", False),
    ],
)
def test_early_stop(tmp_path: Path, losses: list[float], early: str, stalled: bool) -> None:
    best = Best(tmp_path / "best", stage(tmp_path, early=early))
    for number, loss in enumerate(losses):
        assert not best.stalled()
        best.add(10 * number, loss, lambda path: None, delete=True)
    assert best.stalled() is stalled
    metrics = tmp_path / "metrics.jsonl"
    lines = [{"stage": "asr", "step": 10 * i, "validation_loss": loss} for i, loss in enumerate(losses)]
    lines.insert(0, {"stage": "other", "step": 5, "validation_loss": 0.0})
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = Best(tmp_path / "best", stage(tmp_path, early=early))
    again.remember(metrics, "asr")
    assert again.stalled() is stalled


@pytest.mark.fault("Our files: empty, torn, of another type or encoding", "named, with what to do")
def test_weights_that_are_kept_for_a_loss_that_is_lost_are_told(tmp_path: Path) -> None:
    """The lowest of the later losses was left, without a word."""
    folder, metrics = tmp_path / "best", tmp_path / "metrics.jsonl"
    folder.mkdir()
    for step in (10, 30, 40):  # a kill left those of 30 without their loss, and 40 comes again
        (folder / f"step-{step:08d}.safetensors").touch()
    line = {"stage": "asr", "step": 10, "validation_loss": 1.5}
    metrics.write_text(json.dumps(line) + "\n")
    best = Best(folder, stage(tmp_path, keep=2))
    best.remember(metrics, "asr", 30)
    assert best.steps() == [10]
    for lost in ("", json.dumps({**line, "stage": "other"}) + "\n"):
        metrics.write_text(lost)
        best.remember(metrics, "asr")
        with pytest.raises(DamagedError, match=r"metrics\.jsonl: lacks .*step-00000010.* Restore the file"):
            best.remember(metrics, "asr", 30)


def test_options() -> None:
    with pytest.raises(ValueError, match="patience: must be at least 1, not 0"):
        EarlyStop(patience=0)
    with pytest.raises(ValueError, match="min_delta: must be at least 0, not -1"):
        EarlyStop(min_delta=-1)


@pytest.mark.parametrize(
    ("leave", "early", "best"),
    [
        ("null", "null", False),
        ("null", "{patience: 2}", True),
        ("last", "{patience: 2}", False),
        ("best", "null", True),
    ],
)
def test_which_weights_are_left(tmp_path: Path, leave: str, early: str, best: bool) -> None:
    found = stage(tmp_path, early=early, leave=leave)
    assert found.leaves_best is best
    kept = Best(tmp_path / "best", found)
    kept.add(10, 2.0, lambda path: None, delete=True)
    kept.add(20, 3.0, lambda path: None, delete=True)
    assert kept.steps() == ([10] if best else [])


EARLY = ("stages.asr.train.llm.lr=1", "stages.asr.validate.every=1", "stages.asr.early_stop={patience: 5}")
"""Its validation loss rises soon; eight steps are too few to end early."""


def validated(run: RunFolder) -> dict[int, float]:
    lines: list[dict[str, Any]] = Training.curve(run.path)
    return {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}


def lowest(run: RunFolder) -> int:
    losses = validated(run)
    return min(losses, key=lambda step: (losses[step], step))


def test_a_stage_that_may_end_early_leaves_its_best_weights(
    make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """It left those of its last step, which were the worst."""
    run = make_run("run", *EARLY)
    train(run)
    best, last = lowest(run), max(validated(run))
    assert best < last
    (kept,) = (run.checkpoints("asr") / "best").iterdir()
    assert kept.name == f"step-{best:08d}.safetensors"
    written = run.weights("asr").read_bytes()
    assert written == kept.read_bytes()
    said = f"stage asr: leaves the weights of step {best}, whose validation loss is the lowest"
    assert said in capsys.readouterr().err
    told = make_run("told", *EARLY, "stages.asr.checkpoint.leave=last")
    train(told)
    assert validated(told) == validated(run)
    assert not (told.checkpoints("asr") / "best").exists()
    assert told.weights("asr").read_bytes() != written
    rewind(run, 3)
    train(run)
    assert run.weights("asr").read_bytes() == written


def test_lengthened_it_goes_on_from_its_last_step_and_leaves_the_best_of_all(make_run: Make) -> None:
    constant = "stages.asr.schedule={name: constant, warmup: 2}"
    options = (*EARLY[:2], constant, "stages.asr.early_stop={patience: 50}")
    run = make_run("run", *options)
    train(run)
    written, before = run.weights("asr").read_bytes(), validated(run)
    train(lengthen(run.path, ["stages.asr.steps=10"]))
    longer = make_run("longer", *options, "stages.asr.steps=10")
    train(longer)
    assert validated(run) == validated(longer)
    assert validated(run).items() > before.items()
    assert run.weights("asr").with_name("asr.8-steps.safetensors").read_bytes() == written
    (kept,) = (run.checkpoints("asr") / "best").iterdir()
    assert kept.name == f"step-{lowest(run):08d}.safetensors"
    assert run.weights("asr").read_bytes() == kept.read_bytes()


def test_where_no_validation_had_a_loss_the_last_is_left(
    make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("run", "stages.asr.validate.every=100", "stages.asr.early_stop={}")
    train(run)
    said = "stage asr: leaves the weights of step 8, its last: no validation had a loss"
    assert said in capsys.readouterr().err
    assert run.finished("asr")


def test_a_run_that_began_before_leaves_its_last(make_run: Make) -> None:
    begun = ("stages.asr.checkpoint.leave=last", "stages.asr.optimiser.decay_norm_and_bias=true")
    run = make_run("run", *EARLY, *begun)
    held = run.path / "recipe.yaml"
    text = held.read_text(encoding="utf-8").replace("      decay_norm_and_bias: true\n", "")
    held.write_text(text, encoding="utf-8")
    (run.path / "metrics.jsonl").touch()
    assert make_run("run", *EARLY).recipe.stages["asr"].checkpoint.leave == "last"
    with pytest.raises(RunError, match=r"checkpoint\.leave: there last, here best"):
        make_run("run", *EARLY, "stages.asr.checkpoint.leave=best")
