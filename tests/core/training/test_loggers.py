from __future__ import annotations

import json
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kikimimi.errors import MissingExtraError, RecipeError, WriteError
from kikimimi.evaluation.evaluate import evaluate
from kikimimi.run.folder import RunFolder
from kikimimi.run.loggers import check_loggers, log_scores, open_loggers
from kikimimi.run.metrics import read_metrics
from kikimimi.training.train import train

from .conftest import Make

SHORT = ("stages.asr.steps=6", "stages.asr.validate.every=2", "stages.asr.checkpoint.every=2")


class FakeRun:
    """What `wandb.init` returns: takes no step twice, as W&B."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.finished: int | None = None

    def log(self, values: dict[str, float], step: int) -> None:
        assert self.finished is None
        assert step >= max((number for number, _ in self.steps), default=0)
        self.steps.append((step, dict(values)))

    def finish(self, exit_code: int) -> None:
        self.finished = exit_code


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Put a pretended wandb in place; returns the runs that it was asked for."""
    found: list[FakeRun] = []
    fake = ModuleType("wandb")
    fake.__spec__ = ModuleSpec("wandb", None)  # libraries look whether it is there

    def init(**options: Any) -> FakeRun:
        found.append(FakeRun(options))
        return found[-1]

    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ERROR_REPORTING"):
        monkeypatch.delenv(name, raising=False)
    return found


def logged(runs: list[FakeRun]) -> dict[tuple[int, str], float]:
    """Return what was logged; nothing may be there twice."""
    values: dict[tuple[int, str], float] = {}
    for run in runs:
        for step, line in run.steps:
            for name, value in line.items():
                assert (step, name) not in values
                values[step, name] = value
    return values


def in_metrics(run: RunFolder) -> set[tuple[int, str]]:
    lines = read_metrics(run.metrics)
    return {(line["step"], name) for line in lines for name in line if name not in ("stage", "step")}


def test_wandb_is_offline_and_in_the_run_folder(make_run: Make, runs: list[FakeRun]) -> None:
    run = make_run("run", *SHORT, "trainer.loggers=[wandb]")
    train(run)
    (made,) = runs
    assert made.options["mode"] == "offline"
    assert made.options["dir"] == str(run.path)
    assert made.options["name"] == "run/asr"
    assert made.options["config"]["stages"]["asr"]["steps"] == 6
    assert made.options["resume"] is None
    assert made.finished == 0
    assert set(logged(runs)) == in_metrics(run)  # losses and validations
    assert {name for _, name in logged(runs)} >= {"loss", "validation_loss", "data_wait", "memory_gb"}


def test_wandb_online_only_if_the_user_says_so(
    make_run: Make, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "ears")
    train(make_run("run", *SHORT, "trainer.loggers=[wandb]"))
    (made,) = runs
    assert (made.options["mode"], made.options["project"]) == ("online", "ears")


def test_wandb_goes_on_without_repeating(
    make_run: Make, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kikimimi.training.module import StageModule

    run = make_run("run", *SHORT, "trainer.loggers=[wandb]")
    real = StageModule.training_step

    class KilledError(Exception):
        pass

    def killed(self: StageModule, batch: Any, index: int) -> Any:
        if index == 7:  # in the fourth step: the third is logged, and lost
            raise KilledError
        return real(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(StageModule, "training_step", killed)
        with pytest.raises(KilledError):
            train(run)
    assert max(step for step, _ in logged(runs)) == 3
    train(run)
    first, second = runs
    assert first.options["id"] == second.options["id"]
    assert (first.finished, second.finished) == (1, 0)
    assert set(logged(runs)) == in_metrics(run)
    assert min(step for step, _ in second.steps) == 4


def test_a_missing_wandb_is_told_first(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = make_run("run", *SHORT, "trainer.loggers=[wandb]")
    with pytest.raises(
        MissingExtraError,
        match=r"trainer\.loggers: wandb needs the package 'wandb'.*pip install 'kikimimi\[wandb\]'",
    ):
        check_loggers(run.recipe)


def test_an_unknown_logger(make_run: Make) -> None:
    with pytest.raises(RecipeError, match=r"not 'wandbb'\. Did you mean 'wandb'\?"):
        make_run("run", "trainer.loggers=[wandbb]")


def test_scores_go_to_every_logger_once(make_run: Make, runs: list[FakeRun]) -> None:
    run = make_run("run", "trainer.loggers=[wandb]")
    for _ in range(2):
        log_scores(run, "asr", 8, {"cer/held_out": 12.5})
    assert read_metrics(run.metrics) == [{"stage": "asr", "step": 8, "cer/held_out": 12.5}]
    assert logged(runs) == {(8, "cer/held_out"): 12.5}
    assert json.loads((run.path / "wandb" / "asr.json").read_text())["step"] == 8


def test_evaluations_go_to_the_loggers(
    make_run: Make, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("run", *SHORT, "trainer.loggers=[wandb]")
    train(run)
    value = evaluate(run)["held_out"]["small"].value
    evaluate(run)
    assert logged(runs)[6, "cer/held_out"] == value
    assert set(logged(runs)) == in_metrics(run)
    monkeypatch.setitem(sys.modules, "wandb", None)
    other = make_run("other", *SHORT)
    train(other)
    evaluate(RunFolder.open(other.path, ["trainer.loggers=[wandb]"]))
    assert "metrics.jsonl alone: trainer.loggers: wandb needs the package 'wandb'" in capsys.readouterr().err
    assert (6, "cer/held_out") in in_metrics(other)


def test_tensorboard_shows_no_step_twice(make_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed session wrote past the checkpoint is hidden when it is written again."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from kikimimi.training.module import StageModule

    run = make_run("run", *SHORT, "trainer.loggers=[tensorboard]")
    real = StageModule.training_step

    def killed(self: StageModule, batch: Any, index: int) -> Any:
        if index == 7:
            raise RuntimeError("killed")
        return real(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(StageModule, "training_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(run)
    train(run)
    events = accumulator.EventAccumulator(str(run.path / "tensorboard" / "asr"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 7))
    assert [event.step for event in events.Scalars("validation_loss")] == [2, 4, 6]


def test_a_run_goes_on_without_wandb(make_run: Make, tmp_path: Path) -> None:
    """The loggers are of the hardware: a run may change them."""
    run = make_run("run", *SHORT)
    assert RunFolder.open(run.path, ["trainer.loggers=[wandb]"]).recipe.trainer.loggers == ["wandb"]


def test_scores_after_a_line_that_a_kill_cut_short(make_run: Make) -> None:
    run = make_run("run", *SHORT)
    train(run)
    lines = read_metrics(run.metrics)
    (last,) = {line["step"] for line in lines[-1:]}
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write('{"stage": "asr", "st')
    log_scores(run, "asr", last, {"cer/held_out": 0.5})
    assert read_metrics(run.metrics) == [*lines, {"stage": "asr", "step": last, "cer/held_out": 0.5}]


def test_tensorboard_that_finds_no_room_is_one_line(
    make_run: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    run = make_run("full", "trainer.loggers=[tensorboard]")
    (logger,) = open_loggers(run, "asr", None)
    logger.log_metrics({"loss": 1.0}, step=1)
    monkeypatch.setattr(RecordWriter, "write", refuse)

    def log() -> None:
        for step in range(2, 20_000):
            logger.log_metrics({"loss": 1.0}, step=step)
            time.sleep(0.01)

    with pytest.raises(WriteError, match="tensorboard: could not be written: No space left on device"):
        log()
    assert capsys.readouterr().err == ""
