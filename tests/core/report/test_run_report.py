from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest

from kikimimi.data.shards.shards import Shards
from kikimimi.errors import DamagedError
from kikimimi.evaluation.evaluate import evaluate
from kikimimi.evaluation.predictions import read_predictions
from kikimimi.recipe import Chosen, load_recipe, to_yaml
from kikimimi.report.run_report import measured, write_run_report
from kikimimi.run.folder import RunFolder
from kikimimi.testing import tiny_recipe, write_shard
from kikimimi.training.train import train

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("report")
    ledger = {
        "dropped": {"too short": {"rows": 2, "seconds": 0.0}, "missing file": {"rows": 1, "seconds": 0.0}}
    }
    shard = write_shard(folder / "data", 14)
    (folder / "data" / "ledger.json").write_text(json.dumps(ledger))
    run = RunFolder.create(folder / "run", tiny_recipe(load_recipe(QUICKSTART), shard))
    train(run)
    return run


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(trained.path, tmp_path / "run")), trained.recipe)


def text(html: str) -> str:
    """Return what a reader sees: no style, no embedded clips, no tags."""
    bare = re.sub(r"<style.*?</style>|<script.*?</script>|<audio.*?</audio>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", bare)).split())


def test_a_report_holds_scores_examples_counts_and_the_recipe(run: RunFolder) -> None:
    scores = evaluate(run)["held_out"]["quickstart"]
    assert write_run_report(run) == run.report
    html = run.report.read_text(encoding="utf-8")
    shown = text(html)
    assert f"{scores.value:.2f}" in shown
    assert html.count("<audio") == 10  # 5 of the worst and 5 drawn at random, of 14
    assert "of the positions that encoder or adapter computed; the LLM's packs hold none" in shown
    assert re.search(
        r"rows dropped while packing\W+3\W+missing file: 1, too short: 2|3 .*too short: 2", shown
    )
    assert "<svg" in html
    for line in to_yaml(run.recipe).splitlines():
        assert " ".join(line.split()) in shown
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)  # one file, readable without a network


@pytest.mark.fault("Our files: what lies where a ledger should", "an error that names it")
def test_what_is_no_ledger_is_named(run: RunFolder, trained: RunFolder) -> None:
    ledger = trained.path.parent / "data" / "ledger.json"
    aside = ledger.rename(ledger.with_name("aside.json"))
    try:
        write_run_report(run)  # without one, nothing is told of rows
        assert "rows dropped" not in run.report.read_text(encoding="utf-8")
        ledger.symlink_to("unmounted")
        with pytest.raises(DamagedError, match=r"ledger\.json: is a symbolic link that leads nowhere"):
            write_run_report(run)
    finally:
        ledger.unlink(missing_ok=True)
        aside.rename(ledger)


def test_the_worst_come_first(run: RunFolder) -> None:
    evaluate(run)
    path = run.evaluation("held_out") / "quickstart.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines[1:]):
        line["prediction"] = line["reference"] + ("ん" * 99 if number == 7 else "")
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")
    write_run_report(run)
    shown = text(run.report.read_text(encoding="utf-8"))
    worst = shown[shown.index("held_out: the worst") : shown.index("held_out: drawn at random")]
    assert re.findall(r"clips-\d{4}", worst) == [lines[8]["key"]]  # the only one with an error
    pictures = shown.index("Audio tokens and words")
    drawn = set(re.findall(r"clips-\d{4}", shown[shown.index("held_out: drawn at random") : pictures]))
    assert len(drawn) == 5
    assert lines[8]["key"] not in drawn


def test_a_report_before_any_evaluation(run: RunFolder) -> None:
    write_run_report(run)
    html = run.report.read_text(encoding="utf-8")
    assert "<audio" not in html
    shown = text(html)
    for figure in ("seconds of audio per second", "waiting for data [%]", "most memory [GB]"):
        assert f"stage asr: {figure}" in shown
    assert "Norm of the gradient" in shown
    assert "Seconds of audio per second" in shown


def test_figures_are_of_each_stage() -> None:
    lines = [
        {"stage": "a", "audio_seconds_per_second": 10.0, "data_wait": 0.1, "memory_gb": 1.0},
        {"stage": "a", "audio_seconds_per_second": 30.0, "data_wait": 0.3, "memory_gb": 2.5},
        {"stage": "a", "audio_seconds_per_second": 11.0, "data_wait": 0.2, "memory_gb": 2.0},
        {"stage": "b", "data_wait": 0.5},
        {"stage": "b", "validation_loss": 1.0},
    ]
    assert [(figure.label, figure.value) for figure in measured(lines)] == [
        ("stage a: seconds of audio per second", 11.0),
        ("stage a: waiting for data [%]", 20.0),
        ("stage a: most memory [GB]", 2.5),
        ("stage b: waiting for data [%]", 50.0),
    ]


def test_records_of_equal_key_are_shown_with_their_own_reference(run: RunFolder, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_shard(tmp_path / name, 2, seed=seed)
    evaluation = replace(run.recipe.evaluate["held_out"], shards=f"{tmp_path}/{{a,b}}/clips-000000.tar")
    both = RunFolder(run.path, replace(run.recipe, evaluate={"held_out": evaluation}))
    evaluate(both)
    write_run_report(both)
    shown = text(both.report.read_text(encoding="utf-8"))
    shards = Shards("d", evaluation.shards)
    references = [shards.read(row).json["text"] for row in range(4)]
    lines = read_predictions(both.evaluation("held_out") / "quickstart.jsonl")
    keys = ["clips-0000", "clips-0001", "clips-0000 (2)", "clips-0001 (2)"]
    assert [lines[key]["reference"] for key in keys] == references
    assert all(key in shown for key in keys)


def test_what_is_compared_is_said(run: RunFolder) -> None:
    """Which turns a preference objective compares, and whether with dropout, stands among the facts."""
    objective = Chosen.of("objective", "dpo", turns="all")
    stage = replace(run.recipe.stages["asr"], objective=objective)
    preferring = RunFolder(run.path, replace(run.recipe, stages={"asr": stage}))
    shown = text(write_run_report(preferring).read_text(encoding="utf-8"))
    assert 'asr dpo {"beta": 0.1,' in shown
    assert '"turns": "all", "disable_dropout": true}' in shown


def test_what_an_objective_measures_is_drawn(run: RunFolder) -> None:
    """Rewards of DPO in one chart, and more curves than line styles in several."""
    names = [f"reward/{name}" for name in ("accuracy", "chosen", "margin", "rejected")]
    names += [f"lr/llm.group{number}" for number in range(5)]
    with run.metrics.open("a", encoding="utf-8") as file:
        for step in (1, 2):
            line = {"stage": "asr", "step": step, "loss": 0.5, **dict.fromkeys(names, 0.1 * step)}
            file.write(json.dumps(line) + "\n")
    shown = text(write_run_report(run).read_text(encoding="utf-8"))
    assert "Reward" in shown
    assert "Stages Stage Objective Steps Last loss asr ce 2" in shown
    for name in ("accuracy", "chosen", "margin", "rejected"):
        assert name in shown
    assert "Learning rate (1)" in shown
    assert "Learning rate (2)" in shown
    assert "llm.group4" in shown


def test_validation_losses_are_drawn_by_dataset(run: RunFolder) -> None:
    assert "Validation loss by dataset" not in text(write_run_report(run).read_text(encoding="utf-8"))
    with run.metrics.open("a", encoding="utf-8") as file:
        losses = {"validation_loss": 0.5, "validation_loss/read": 0.4, "validation_loss/heard": 0.7}
        file.write(json.dumps({"stage": "asr", "step": 2, **losses}) + "\n")
    shown = text(write_run_report(run).read_text(encoding="utf-8"))
    assert "Validation loss by dataset" in shown
    assert "heard" in shown
