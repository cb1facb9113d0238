"""A finished stage that is lengthened is the stage that had that length from the start."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from kikimimi.errors import DamagedError, KikimimiError, RequestError, RunError
from kikimimi.recipe.show import digest
from kikimimi.run.folder import RunFolder
from kikimimi.run.lock import keep_lock
from kikimimi.training.lengthen import lengthen
from kikimimi.training.schedule import factor
from kikimimi.training.train import train

from .conftest import Make, Training

LIVE = "trainer.cache_features=false"  # a longer stage may hear clips twice, and so encode them ahead
SHORT = ("stages.asr.steps=4", LIVE)
CONSTANT = "stages.asr.schedule={name: constant, warmup: 2}"


def losses(run: RunFolder, key: str = "loss") -> list[object]:
    return [line[key] for line in Training.curve(run.path) if key in line]


@pytest.mark.parametrize("accumulated", ["global: 2", "global: 4"])
def test_a_longer_stage_at_a_constant_rate_is_the_same_to_the_bit(make_run: Make, accumulated: str) -> None:
    options = (LIVE, CONSTANT, f"stages.asr.batch={{seconds: 3, {accumulated}}}")
    whole = make_run("whole", *options, "stages.asr.steps=8")
    train(whole)
    run = make_run("run", *options, "stages.asr.steps=4")
    train(run)
    left = run.weights("asr").read_bytes()
    train(lengthen(run.path, ["stages.asr.steps=8"]))
    assert run.weights("asr").read_bytes() == whole.weights("asr").read_bytes()
    assert Training.curve(run.path) == Training.curve(whole.path)
    assert (run.path / "recipe.yaml").read_bytes() == (whole.path / "recipe.yaml").read_bytes()
    assert (run.path / "weights" / "asr.4-steps.safetensors").read_bytes() == left
    held = json.loads((run.path / "lock.json").read_text())
    assert held["lengthened"] == [{"stage": "asr", "option": "steps", "old": 4, "new": 8}]
    assert held["recipe"]["sha256"] == digest((run.path / "recipe.yaml").read_text())
    assert [session["changes"] for session in held["sessions"]] == [[], []]
    keep_lock(RunFolder.open(run.path), hold=True)
    train(lengthen(run.path, ["stages.asr.steps=9", "trainer.log_every=3"]))  # and once more
    assert len(losses(run)) == 9
    assert "log_every: 1" in (run.path / "recipe.yaml").read_text()


def test_a_stage_counted_in_epochs(make_run: Make) -> None:
    options = (LIVE, CONSTANT, "stages.asr.steps=null")
    whole = make_run("whole", *options, "stages.asr.epochs=3")
    train(whole)
    run = make_run("run", *options, "stages.asr.epochs=1")
    train(run)
    train(lengthen(run.path, ["stages.asr.epochs=3"]))
    assert run.weights("asr").read_bytes() == whole.weights("asr").read_bytes()


def test_a_schedule_that_decays_is_that_of_the_new_length_from_there_on(
    make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("run", *SHORT)
    train(run)
    capsys.readouterr()
    train(lengthen(run.path, ["stages.asr.steps=8"]))
    said = capsys.readouterr().err
    assert f"stage asr: lengthened from 4 to 8 steps. What it had left: {run.path}" in said
    assert "stage asr: going on after step 4" in said
    schedule = run.recipe.stages["asr"].schedule
    rates = [2e-3 * factor(schedule, step, 4 if step < 4 else 8) for step in range(8)]
    assert losses(run, "lr/llm") == rates
    told = "learning rates by schedule cosine over 8 steps, from step 5 on: adapter "
    assert f"{told}{rates[4] / 2:.3g} (was to be " in said


def test_what_is_stopped_after_it_was_lengthened_goes_on(make_run: Make) -> None:
    run = make_run("run", *SHORT)
    train(run)
    once = shutil.copytree(run.path, run.path.with_name("once"))
    train(lengthen(once, ["stages.asr.steps=8"]))
    lengthen(run.path, ["stages.asr.steps=8"])
    assert not RunFolder.open(run.path).finished("asr")
    lengthen(run.path, ["stages.asr.steps=8"])  # the same command again
    train(RunFolder.open(run.path))
    expected = RunFolder.open(once)
    assert Training.curve(run.path) == Training.curve(once)
    assert run.weights("asr").read_bytes() == expected.weights("asr").read_bytes()


def test_the_scores_of_the_stage_are_measured_anew(make_run: Make) -> None:
    run = make_run("run", *SHORT, "stages.asr.evaluate=[held_out]")
    train(run)
    assert [line["step"] for line in Training.curve(run.path) if "cer/held_out" in line] == [4]
    train(lengthen(run.path, ["stages.asr.steps=6"]))
    assert [line["step"] for line in Training.curve(run.path) if "cer/held_out" in line] == [4, 6]


SECOND = """stages:
  sft:
    train: {adapter: {lr: 1.0e-3}}
    data: {tones: {shards: SHARDS, task: asr}}
    steps: 1
"""


def test_what_cannot_be_lengthened_is_said(make_run: Make, recipe_file: Path) -> None:
    run = make_run("run", *SHORT)
    with pytest.raises(RunError, match=r"stage 'asr' is not finished, .* First: kikimimi train "):
        lengthen(run.path, ["stages.asr.steps=8"])
    train(run)
    files = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    (run.path / "lock.json").write_text("x")
    with pytest.raises(DamagedError, match=r"lock\.json: is not JSON: .*or delete it"):
        lengthen(run.path, ["stages.asr.steps=8"])  # what it had left was moved away before
    (run.path / "lock.json").write_bytes(files[run.path / "lock.json"])
    for changes, message in [
        ([], r"--extend takes the new length of one stage, and there are 0: kikimimi train RUN"),
        (["stages.asr.steps=8", "stages.asr.epochs=8"], r"the new length of one stage, and there are 2"),
        (["stages.ars.steps=8"], r"no stage is called 'ars'\. Did you mean 'asr'\?"),
        (["stages.asr.steps=4"], r"stages\.asr\.steps: it has 4 already; --extend takes a larger .*, not 4"),
        (["stages.asr.steps=3"], r"it has 4 already; .* not 3"),
        (["stages.asr.steps=x"], r"stages\.asr\.steps: "),
        (["stages.asr.epochs=3"], r"epochs: stands in place of steps"),
        (["stages.asr.steps=8", "stages.asr.clip=3"], r"keeps its recipe \(stages\.asr\.clip"),
    ]:  # fmt: skip
        with pytest.raises(RequestError, match=message):
            lengthen(run.path, changes)
    (last,) = run.checkpoints("asr").glob("step-00000004")
    hidden = last.rename(run.path / "hidden")
    with pytest.raises(
        RunError, match=r"has no checkpoint of step 4, the stage's last one: .* keep it for as"
    ):
        lengthen(run.path, ["stages.asr.steps=8"])
    hidden.rename(last)
    (last / "resume.json").write_text("{")
    with pytest.raises(KikimimiError, match=r"step-00000004: the checkpoint is damaged"):
        lengthen(run.path, ["stages.asr.steps=8"])
    (last / "resume.json").write_bytes(files[last / "resume.json"])
    left = files[run.weights("asr")]
    for damaged in (left[: len(left) // 2], left[:-1] + bytes([left[-1] ^ 4])):
        run.weights("asr").write_bytes(damaged)
        with pytest.raises(DamagedError, match=r"weights/asr\.safetensors: cannot be read: .*or delete it"):
            lengthen(run.path, ["stages.asr.steps=8"])  # it was moved away before
        assert run.weights("asr").read_bytes() == damaged
    run.weights("asr").write_bytes(left)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == files


def test_a_stage_that_later_ones_build_on_is_not_lengthened(make_run: Make, recipe_file: Path) -> None:
    text = recipe_file.read_text(encoding="utf-8")
    shards = re.search(r'shards: "([^"]+)"', text)
    assert shards is not None
    second = SECOND.removeprefix("stages:\n").replace("SHARDS", f'"{shards[1]}"')
    recipe_file.write_text(text.replace("evaluate:", f"{second}evaluate:", 1), encoding="utf-8")
    run = make_run("run", *SHORT)
    train(run, "asr")
    train(lengthen(run.path, ["stages.asr.steps=5"]), "asr")
    train(RunFolder.open(run.path))
    message = (
        r"stage 'sft' was trained on what stage 'asr' had left, not .* move .*sft\.safetensors and .*/sft a"
    )
    with pytest.raises(RunError, match=message):
        lengthen(run.path, ["stages.asr.steps=8"])
    train(lengthen(run.path, ["stages.sft.steps=2"]))  # the last one may be
    assert run.weights("sft").is_file()


def test_a_stage_that_ended_early_is_not_lengthened(make_run: Make) -> None:
    run = make_run("run", "stages.asr.steps=8", "stages.asr.validate.every=2", "stages.asr.train.llm.lr=1",
                   "stages.asr.early_stop={patience: 1, min_delta: 100}")  # fmt: skip
    train(run)
    assert len(losses(run)) < 8
    with pytest.raises(
        RunError, match=r"stage 'asr' ended early, .*early_stop\): more steps would end as soon"
    ):
        lengthen(run.path, ["stages.asr.steps=16"])
