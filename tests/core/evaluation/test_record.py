"""Evaluations that are added, changed and scored anew after training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from kikimimi.errors import DamagedError, RecipeError, RequestError, RunError
from kikimimi.evaluation.evaluate import evaluate
from kikimimi.evaluation.record import added_names, as_scored, open_changed, read_scorings, with_added
from kikimimi.inference.load import load_model
from kikimimi.inference.ranks import Ranks, start_ranks
from kikimimi.inspect.run_check import check_run
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import named_tensors
from kikimimi.recipe import load_recipe, to_yaml
from kikimimi.report.run_report import write_run_report
from kikimimi.run.folder import RunFolder
from kikimimi.run.metrics import read_metrics
from kikimimi.testing import tiny_recipe, write_shard
from kikimimi.training.train import train

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"
LOAD = "kikimimi.evaluation.evaluate.load_model"
SPACED = "evaluate.held_out.normaliser=none"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a run that was evaluated by its own recipe."""
    folder = tmp_path_factory.mktemp("record")
    run = RunFolder.create(
        folder / "run", tiny_recipe(load_recipe(QUICKSTART), write_shard(folder / "data", 6))
    )
    train(run)
    evaluate(run)
    return run


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder.open(shutil.copytree(trained.path, tmp_path / "run"))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOAD, lambda *_: pytest.fail("the model was loaded"))


def scored(run: RunFolder, *overrides: str, source: Path | None = None) -> dict[str, Any]:
    changed, named = open_changed(run.path, overrides, source)
    return {name: systems["quickstart"] for name, systems in evaluate(changed, named).items()}


def test_what_was_added_to_another_run_is_taken_from_it_too(run: RunFolder, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run.path, other)
    held = run.recipe.evaluate["held_out"]
    scored(run, f"evaluate.more={{shards: {held.shards}, task: asr, generate: {{max_new_tokens: 1}}}}")
    changed, named = open_changed(other, source=run.path)
    assert named == ["held_out", "more"]
    assert changed.recipe.evaluate["more"].generate.max_new_tokens == 1


@pytest.mark.usefixtures("no_model")
def test_another_metric_scores_what_was_predicted(run: RunFolder) -> None:
    before = {path: path.read_bytes() for path in run.evaluation("held_out").glob("*.jsonl")}
    score = scored(run, "evaluate.held_out.metric=wer", SPACED)["held_out"]
    assert (score.metric, score.normaliser, score.count) == ("wer", "none", 6)
    assert {path: path.read_bytes() for path in before} == before
    first, second = read_scorings(run.evaluation("held_out"))
    assert (first["systems"]["quickstart"]["score"]["metric"], "name: wer" in second["settings"]) == (
        "cer",
        True,
    )
    assert first["systems"]["quickstart"]["predictions"] == second["systems"]["quickstart"]["predictions"]
    assert run.read_json("evaluations/held_out/scores.json")["quickstart"]["metric"] == "wer"


@pytest.mark.usefixtures("no_model")
def test_the_run_stays_as_it_was_trained(run: RunFolder) -> None:
    files = [run.path / name for name in ("recipe.yaml", "lock.json", "metrics.jsonl", "metrics.csv")]
    before = [path.read_bytes() for path in files]
    assert "cer/held_out" in read_metrics(run.metrics)[-1]
    scored(run, SPACED)
    # Neither a gate nor a curve takes another normaliser's value for the recipe's own.
    assert [path.read_bytes() for path in files] == before
    record = read_scorings(run.evaluation("held_out"))
    assert scored(run)["held_out"].normaliser == "whisper-basic-nospace"  # without changes, the recipe's own
    assert read_scorings(run.evaluation("held_out")) == record[::-1]  # nothing new


def test_what_is_generated_otherwise_is_kept_beside(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    own = (run.evaluation("held_out") / "quickstart.jsonl").read_bytes()
    scored(run, "evaluate.held_out.generate.max_new_tokens=2")
    assert (run.evaluation("held_out") / "quickstart.jsonl").read_bytes() != own
    monkeypatch.setattr(LOAD, lambda *_: pytest.fail("the model was loaded"))
    scored(run)
    assert (run.evaluation("held_out") / "quickstart.jsonl").read_bytes() == own
    scored(run, "evaluate.held_out.generate.max_new_tokens=2", SPACED)
    assert len(read_scorings(run.evaluation("held_out"))) == 3


def other_recipe(run: RunFolder, tmp_path: Path) -> Path:
    shards = write_shard(tmp_path / "more", 4, seed=7)
    path = tmp_path / "other.yaml"
    text = to_yaml(run.recipe).replace("  held_out:\n    shards:", "  fresh:\n    shards:")
    path.write_text(text, encoding="utf-8")
    loaded = load_recipe(path, [f"evaluate.fresh.shards={shards}", "seed=5"])
    path.write_text(to_yaml(loaded), encoding="utf-8")
    return path


def test_evaluations_of_another_recipe_are_added(run: RunFolder, tmp_path: Path) -> None:
    other = other_recipe(run, tmp_path)
    assert {name: score.count for name, score in scored(run, source=other).items()} == {"fresh": 4}
    assert added_names(run) == ["fresh"]
    other.unlink()
    # From now on it is known, and can be scored anew like the recipe's own.
    assert list(with_added(RunFolder.open(run.path)).recipe.evaluate) == ["held_out", "fresh"]
    assert scored(run, "evaluate.fresh.normaliser=none")["fresh"].normaliser == "none"
    assert list(scored(run)) == ["held_out", "fresh"]
    assert as_scored(run).recipe.evaluate["fresh"].normaliser == "none"
    train(run)  # a recipe that has not changed


def test_evaluations_of_another_run(run: RunFolder, trained: RunFolder) -> None:
    assert list(scored(run, source=trained.path)) == ["held_out"]


def test_the_report_shows_every_scoring(run: RunFolder, tmp_path: Path) -> None:
    scored(run, "evaluate.held_out.metric=wer", SPACED)
    scored(run, source=other_recipe(run, tmp_path))
    page = write_run_report(run).read_text(encoding="utf-8")
    for said in ("CER", "WER", "changed after training: metric.name wer, normaliser none", "fresh"):
        assert said in page
    assert page.count("added after training") == 1
    assert page.index("CER") < page.index("WER")  # the recipe's own stand first
    assert "fresh: the worst" in page or "fresh: drawn at random" in page


def test_a_run_whose_added_evaluation_cannot_be_read_any_more(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scored(run, source=other_recipe(run, tmp_path))

    def refuse(*_: Any) -> None:
        raise RequestError("no task is called 'asr'")

    monkeypatch.setattr("kikimimi.evaluation.record.read_changed", refuse)
    assert with_added(run).recipe == run.recipe
    assert "added or changed cannot be read any more: no task is called 'asr'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (
            ["evaluate.heldout.metric=cer"],
            RecipeError,
            r"evaluate\.heldout: there is no evaluation 'heldout'\. Did you mean 'held_out'\? "
            r"Evaluations: held_out\. To add one, write evaluate\.heldout=\{\.\.\.\} \(command line",
        ),
        (
            ["stages.asr.steps=900"],
            RunError,
            r"run keeps its recipe \(stages\.asr\.steps: there 2, here 900\)\. Only evaluate\.\* and "
            r"guards\.\* can be added or changed here, and where it runs: trainer\.accelerator, "
            r"trainer\.strategy",
        ),
        (
            ["trainer.precision=bf16"],
            RunError,
            r"trainer\.precision: there fp32, here bf16\)\. Only evaluate",
        ),
        (["evaluate.held_out.metric=wer"], RecipeError, "the normaliser removes the white space"),
        (["evaluate.new={task: asr}"], RecipeError, r"evaluate\.new\.shards: must be given"),
    ],
)
def test_what_cannot_be_changed(
    run: RunFolder, overrides: list[str], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        open_changed(run.path, overrides)


def test_a_source_without_evaluations(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "bare.yaml"
    path.write_text(to_yaml(run.recipe).partition("\nevaluate:")[0] + "\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"bare\.yaml: has no evaluation \(section 'evaluate'\)"):
        open_changed(run.path, source=path)
    with pytest.raises(RequestError, match=r"there is no recipe .*bear\.yaml\. Did you mean 'bare\.yaml'\?"):
        open_changed(run.path, source=tmp_path / "bear.yaml")


def test_a_record_that_is_not_as_it_was_written(run: RunFolder) -> None:
    path = run.evaluation("held_out") / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record[0]["settings"] = record[0]["settings"].replace("nospace", "")
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(DamagedError, match=r"record\.json: .*settings 1 are not as they were written"):
        read_scorings(path.parent)
    assert [item.name for item in check_run(run.path) if item.problem] == ["evaluations/held_out/record.json"]


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("file", ["record.json", "scores.json"])
def test_a_record_that_is_a_link_to_nowhere_is_told_before_the_work(run: RunFolder, file: str) -> None:
    folder = run.evaluation("held_out")
    for path in (folder / "record.json", folder / "quickstart.jsonl"):
        path.unlink()
    (folder / file).unlink(missing_ok=True)
    (folder / file).symlink_to("nowhere")
    with pytest.raises(
        DamagedError, match=rf"{file}: is a symbolic link that leads nowhere\. .*[dD]elete it"
    ):
        evaluate(run)


def test_what_was_cut_stays_known_where_it_is_scored_again_and_comes_back(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = scored(run)["held_out"].truncated
    short = "evaluate.held_out.generate.max_new_tokens=1"
    assert scored(run, short)["held_out"].truncated == 6
    monkeypatch.setattr(LOAD, lambda *_: pytest.fail("the model was loaded"))
    assert scored(run)["held_out"].truncated == own is not None
    assert scored(run, short, "evaluate.held_out.metric=wer", SPACED)["held_out"].truncated == 6
    counts = [
        one["systems"]["quickstart"]["score"]["truncated"]
        for one in read_scorings(run.evaluation("held_out"))
    ]
    assert sorted(map(str, counts)) == sorted(map(str, [own, 6, 6]))


def test_scores_of_a_version_that_kept_no_record_stand(run: RunFolder) -> None:
    (run.evaluation("held_out") / "record.json").unlink()
    scores = run.read_json("evaluations/held_out/scores.json")
    run.write_json("evaluations/held_out/scores.json", {"quickstart@asr": scores["quickstart"], **scores})
    assert list(evaluate(run)["held_out"]) == ["quickstart@asr", "quickstart"]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_a_model_in_pieces_is_never_held_whole(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one rank here; tests/core/training/test_fsdp.py has two, and answers."""
    monkeypatch.setattr(LOAD, lambda *_: pytest.fail("the model was loaded whole"))
    expected = named_tensors(load_model(run))
    stage, weights = run.newest_weights()
    trainer = replace(run.recipe.trainer, strategy="fsdp")
    ranks = Ranks(RunFolder(run.path, replace(run.recipe, trainer=trainer)))
    model = ranks.load(stage, weights)
    assert {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad} == {}
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        assert torch.equal(parameter.full_tensor(), expected[name])


def test_the_first_rank_asks_the_others(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the model computes: a rank that was left out would leave the others waiting."""
    asked: list[str] = []

    class Alone:
        spread = True
        device = torch.device("cpu")

        def load(self, stage: str, weights: Path) -> SpeechLM:
            return load_model(run, stage, weights)

        def ask(self, what: str, *given: Any) -> None:
            asked.append(what)

    shutil.rmtree(run.path / "evaluations")
    evaluate(run, ranks=cast(Any, Alone()))
    assert asked == ["answer", *("pack", "embed") * 3]  # one batch, and the look at three clips


def test_fewer_gpus_than_the_run_was_trained_on(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    trainer = replace(run.recipe.trainer, accelerator="auto", strategy="fsdp", devices=8)
    said = r"trainer\.devices=8, and this machine has 1 GPU: .* trainer\.strategy=auto trainer\.devices=1"
    with pytest.raises(RequestError, match=said):
        start_ranks(trainer)


def test_any_number_of_ranks_evaluates_whatever_training_can_share_out(run: RunFolder) -> None:
    assert {stage.batch.global_ for stage in run.recipe.stages.values()} == {1}
    changed, named = open_changed(run.path, ["trainer.devices=3", "trainer.strategy=ddp"])
    assert (changed.recipe.trainer.devices, named) == (3, [])
