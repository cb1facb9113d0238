"""The guards of runs: what they are compared with, that nothing is measured twice, gates, the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kikimimi.errors import DamagedError, GateError
from kikimimi.evaluation.record import open_changed
from kikimimi.guards import guard, readings
from kikimimi.guards.guard import guard_run, guard_stage
from kikimimi.guards.record import read_guards, write_guards
from kikimimi.guards.table import print_verdict
from kikimimi.guards.verdict import GuardRow, Verdict
from kikimimi.inspect.run_check import check_run
from kikimimi.recipe import load_recipe
from kikimimi.report.run_report import write_run_report
from kikimimi.run.folder import RunFolder
from kikimimi.testing import write_shard
from kikimimi.training.train import train
from kikimimi_llms.scratch import build_tokenizer

RECIPE = """
name: guarded
encoder:
  name: whisper
  weights: random
  fixed: ["*"]
  sizes: {{dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 32, num_positions: 100}}
adapter: {{name: mlp, hidden_dim: 32}}
llm: {{name: llama, weights: {llm}, lora: {{rank: 2, alpha: 4}}}}
stages:
  align:
    train: {{adapter: {{lr: 1.0e-3}}}}
    data: &clips {{tones: {{shards: "{clips}", task: asr}}}}
    batch: &batch {{seconds: 6}}
    steps: 1
  sft:
    train: {{adapter: {{lr: 1.0e-3}}, llm: {{lr: 3.0e-1, part: lora}}}}
    data: *clips
    batch: *batch
    steps: 4
    schedule: {{name: constant}}
evaluate:
  held_out: {{shards: "{clips}", task: asr, generate: {{max_new_tokens: 4}}}}
guards: {{languages: [en], max_new_tokens: 4}}
trainer: {{log_every: 1, accelerator: cpu, cache_features: false}}
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a recipe that gives a published LLM low-rank updates, and that LLM."""
    folder = tmp_path_factory.mktemp("guards")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, vocab_size=262)).save_pretrained(
        folder / "llm"
    )
    build_tokenizer("bytes", ()).save_pretrained(folder / "llm")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(llm=folder / "llm", clips=write_shard(folder, 4)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(recipe_file: Path) -> RunFolder:
    """The run, trained and measured once for all tests that only look."""
    run = RunFolder.create(recipe_file.parent / "run", load_recipe(recipe_file))
    train(run)
    verdict = guard_run(run)
    assert verdict is not None
    return run


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder.open(Path(shutil.copytree(trained.path, tmp_path / "run")))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note each model that is asked from now on, and whether it hears."""
    models: list[bool] = []
    whole = readings.read_model

    def read_model(*given: Any, hears: bool) -> Any:
        models.append(hears)
        return whole(*given, hears=hears)

    monkeypatch.setattr(guard, "read_model", read_model)
    return models


def rows(verdict: Verdict | None, name: str) -> list[GuardRow]:
    assert verdict is not None
    return [row for row in verdict["rows"] if row["guard"] == name]


def test_a_published_llm_is_compared_with_its_sources(run: RunFolder, asked: list[bool]) -> None:
    verdict = guard_run(run)
    assert asked == []  # nothing is measured again
    assert verdict is not None
    assert (verdict["stage"], verdict["before"]) == ("sft", "the LLM as its sources have it")
    assert verdict["weights"] == run.weights_identity()
    loss, right = rows(verdict, "forgetting")
    assert loss["before"] is not None
    assert loss["after"] is not None
    assert abs(loss["after"] - loss["before"]) > 0.01  # that rate does something to it
    assert loss["passed"] is (loss["after"] <= 1.1 * loss["before"])
    assert right["before"] == right["after"] == 0
    assert all(row["passed"] is not None for row in verdict["rows"] if row["guard"] != "instructions")
    assert [one["identity"]["heard"] == "nothing" for one in read_guards(run)["readings"]] == [True, False]


def test_before_training_the_loss_is_that_of_the_sources(run: RunFolder, asked: list[bool]) -> None:
    verdict = guard_stage(run, "align")
    assert asked == [True]  # of what align left; the sources are not asked for: nothing has trained the LLM
    (loss, _) = rows(verdict, "forgetting")
    assert (loss["passed"], loss["why"]) == (None, "no stage has trained the LLM")
    (of_run, _) = rows(read_guards(run)["verdicts"]["guarded"], "forgetting")
    assert loss["after"] == pytest.approx(of_run["before"], rel=1e-6)
    assert list(read_guards(run)["verdicts"]) == ["guarded", "guarded@align"]


def test_other_bounds_need_no_other_measurement(run: RunFolder, asked: list[bool]) -> None:
    changed, _ = open_changed(run.path, ["guards.loss=1000", "guards.silence=1"])
    verdict = guard_run(changed)
    assert asked == []
    assert rows(verdict, "forgetting")[0]["passed"]
    assert rows(verdict, "silence")[0]["passed"]
    changed, _ = open_changed(run.path, ["guards.languages=[ja]"])
    guard_run(changed)
    assert asked == [False, True]


def test_weights_that_are_no_numbers_fail(run: RunFolder) -> None:
    record = read_guards(run)
    record["readings"][1]["losses"]["en"] = [(float("nan"), 3)]
    write_guards(run, record)
    (loss, _) = rows(guard_run(run), "forgetting")
    assert (loss["after"], loss["passed"], loss["why"]) == (None, False, "the loss is no number")
    assert rows(read_guards(run)["verdicts"]["guarded"], "forgetting")[0] == loss


def test_an_interrupted_measurement_goes_on(
    run: RunFolder, asked: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = read_guards(run)
    (run.path / "guards.json").write_text(
        json.dumps({"verdicts": {}, "readings": held["readings"][:1]}), encoding="utf-8"
    )
    verdict = guard_run(run)
    assert asked == [True]
    assert verdict == held["verdicts"]["guarded"]


def test_who_wants_none_and_who_wants_them_in_any_case(run: RunFolder, asked: list[bool]) -> None:
    assert guard_run(open_changed(run.path, ["guards.run=never"])[0]) is None
    run.weights("sft").unlink()
    shutil.rmtree(run.checkpoints("sft"))
    assert guard_run(run) is None  # the LLM was not trained yet
    assert asked == []
    verdict = guard_run(open_changed(run.path, ["guards.run=always"])[0])
    assert asked == [True]
    assert rows(verdict, "forgetting")[0]["why"] == "no stage has trained the LLM"


SCRATCH = [
    "llm={name: llama, weights: random, scratch: {dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 32}}",
    "stages.align.train.llm={lr: 1.0e-3}",
    "stages.sft.train.llm={lr: 1.0e-3, part: all}",
]


def test_an_llm_that_the_first_stage_makes(recipe_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    text = recipe_file.read_text(encoding="utf-8")
    llm = next(line for line in text.splitlines() if line.startswith("llm:"))
    path.write_text(text.replace(llm, "llm: {name: llama}"), encoding="utf-8")
    run = RunFolder.create(tmp_path / "run", load_recipe(path, SCRATCH))
    train(run, "align")
    verdict = guard_run(run)
    (loss, _) = rows(verdict, "forgetting")
    assert (loss["passed"], loss["why"]) == (None, "the LLM is new: stage align is the first that trains it")
    train(run, "sft")
    verdict = guard_run(run)
    assert verdict is not None
    assert verdict["before"] == "the LLM as stage align left it, which made it"
    run.weights("align").unlink()
    verdict = guard_run(run)
    (loss, *_) = rows(verdict, "forgetting")
    assert loss["why"] == "the LLM is new, and what stage align left of it is gone"


def test_a_guard_shuts_the_gate_of_a_stage(recipe_file: Path, tmp_path: Path, asked: list[bool]) -> None:
    def make(name: str, *overrides: str) -> RunFolder:
        return RunFolder.create(tmp_path / name, load_recipe(recipe_file, overrides))

    shut = make("shut", "stages.align.guards=[forgetting]")
    for _ in range(2):  # the second call finds the stage done, and the gate as shut as before
        with pytest.raises(
            GateError,
            match=r"stage align: guard forgetting says nothing: no stage has trained the LLM: no later stage "
            r"begins\. To go on all the same: kikimimi train .* --stage sft$",
        ):
            train(shut)
    assert asked == [True]
    assert not shut.finished("sft")
    train(shut, "sft")  # whatever gates before it say
    passing = make("open", "stages.sft.guards=[forgetting, silence]", "guards.loss=1000", "guards.silence=1")
    train(passing)
    assert list(read_guards(passing)["verdicts"]) == ["guarded@sft"]
    count = len(asked)
    guard_run(passing)
    assert len(asked) == count  # the weights are those of the stage


def test_a_stage_after_which_the_llm_has_forgotten(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_model(*given: Any, hears: bool) -> Any:
        found = readings.read_model(*given, hears=hears)
        if hears:
            found["losses"] = {"en": [(3 * loss, count) for loss, count in found["losses"]["en"]]}
        return found

    monkeypatch.setattr(guard, "read_model", read_model)
    recipe = load_recipe(recipe_file, ["stages.align.guards=[]", "stages.sft.guards=[forgetting]"])
    with pytest.raises(
        GateError,
        match=r"stage sft: guard forgetting: loss of held-out English text \[nats/token\]: \d+\.\d+ "
        r"\(\d\.\d+ before\), with a rise of at most 10 %: it has risen by \d+\.\d %$",
    ):
        train(RunFolder.create(tmp_path / "run", recipe))


def test_the_report_and_the_table(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    record = read_guards(run)
    verdict = record["verdicts"]["guarded"]
    verdict["rows"][0] |= {"passed": False, "why": "it has risen <b>"}
    verdict["rows"][1] |= {"passed": None, "why": "it is new"}
    run.write_json("guards.json", record)
    page = write_run_report(run).read_text(encoding="utf-8")
    begin = page.index('<section id="guards">')
    section = page[begin : page.index("</section>", begin)]
    assert section.count("<tr") == 1 + len(verdict["rows"])
    assert '<tr class="guard failed"><th scope="row">forgetting</th>' in section
    assert "it has risen &lt;b&gt;" in section
    assert section.count('<tr class="guard unknown">') >= 1
    assert '<span class="guard failed">failed: forgetting' in section
    assert "Before: the LLM as its sources have it. After: what stage sft left." in section
    failed = [row["guard"] for row in verdict["rows"] if row["passed"] is False]
    assert f'<dt>guards</dt><dd class="failed">{len(set(failed))} of 6 failed' in page
    print_verdict(verdict)
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "it has risen <b>" in out
    (run.path / "guards.json").unlink()
    assert "not measured yet: kikimimi evaluate" in write_run_report(run).read_text(encoding="utf-8")


def test_a_recipe_that_does_not_train_the_llm_has_no_section(recipe_file: Path, tmp_path: Path) -> None:
    text = recipe_file.read_text(encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        text.replace(", llm: {lr: 3.0e-1, part: lora}", "").replace(", lora: {rank: 2, alpha: 4}", ""),
        encoding="utf-8",
    )
    run = RunFolder.create(tmp_path / "run", load_recipe(path))
    train(run)
    assert guard_run(run) is None
    assert not (run.path / "guards.json").exists()
    assert 'id="guards"' not in write_run_report(run).read_text(encoding="utf-8")


def share(value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        record["verdicts"]["guarded"]["rows"][1]["after"] = value

    return change


def loss_of_nothing(record: dict[str, Any]) -> None:
    record["readings"][0]["losses"]["en"][0][1] = 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (share(1.5), "a value is none that there can be"),
        (share(-0.1), "a value is none that there can be"),
        (share("much"), r"guarded\.rows\.1\.after"),
        (loss_of_nothing, "the loss of a text is of no token"),
        (lambda record: record.pop("readings"), "readings: Field required"),
    ],
)
def test_a_damaged_record(run: RunFolder, change: Callable[[Any], Any], message: str) -> None:
    record = json.loads((run.path / "guards.json").read_text(encoding="utf-8"))
    change(record)
    (run.path / "guards.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(DamagedError, match=f"{message}.*'kikimimi evaluate' makes it again"):
        read_guards(run)
    assert [item.name for item in check_run(run.path) if item.problem] == ["guards.json"]


def test_a_damaged_record_is_measured_again(
    run: RunFolder, asked: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    (run.path / "guards.json").write_text("{", encoding="utf-8")
    assert guard_run(run) is not None
    assert asked == [False, True]
    assert "makes it again, now" in capsys.readouterr().err
    assert read_guards(run)["verdicts"].keys() == {"guarded"}
