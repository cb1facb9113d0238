from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from kikimimi.contracts.component import Padded
from kikimimi.data.corpus import Corpus
from kikimimi.evaluation.evaluate import evaluate, evaluate_stage
from kikimimi.evaluation.predictions import Predictions
from kikimimi.evaluation.similarity import CLIPS, FILE, read_similarities, similarities, write_similarities
from kikimimi.inference.engine import Engine
from kikimimi.inference.load import load_model
from kikimimi.recipe import Chosen, load_recipe
from kikimimi.report.run_report import write_run_report
from kikimimi.run.folder import RunFolder
from kikimimi.testing import tiny_recipe, write_shard
from kikimimi.training.train import train

CPU = torch.device("cpu")
QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("similarity")
    run = RunFolder.create(
        folder / "run", tiny_recipe(load_recipe(QUICKSTART), write_shard(folder / "data", 6))
    )
    train(run)
    return run


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(trained.path, tmp_path / "run")), trained.recipe)


def corpus_of(run: RunFolder) -> Corpus:
    return Corpus.open("held_out", run.recipe.evaluate["held_out"])


def test_cosines_are_those_of_adapter_and_embeddings(run: RunFolder) -> None:
    corpus, engine = corpus_of(run), Engine(load_model(run), CPU)
    model, found = engine.model, similarities(engine, corpus, 0)
    assert len(found) == CLIPS
    assert len({one.key for one in found}) == CLIPS
    for one in found:
        row = next(row for row in range(len(corpus.shards)) if corpus.shards.key(row) == one.key)
        record = corpus.shards.read(row)
        text = record.json["text"]
        clip = corpus.waveforms(record, ["0.flac"], model.encoder.sample_rate)
        with torch.no_grad():
            audio = model.adapter(model.encoder(Padded.stack(clip))).tokens.values[0]
            words = model.embed(torch.tensor(model.llm.vocabulary.encode(text)))
        wanted = F.cosine_similarity(words[:, None], audio[None], dim=-1)  # (L, T)
        torch.testing.assert_close(torch.tensor(one.values), wanted, atol=1e-5, rtol=0)
        assert len(one.tokens) == len(words)
    assert [one.key for one in similarities(engine, corpus, 0)] == [one.key for one in found]


def test_what_is_written_is_read(tmp_path: Path, run: RunFolder) -> None:
    assert read_similarities(tmp_path) == ("", "", [])
    found = similarities(Engine(load_model(run), CPU), corpus_of(run), 0)
    write_similarities(tmp_path / "new", "of these weights", "small", found)
    identity, system, clips = read_similarities(tmp_path / "new")
    assert (identity, system) == ("of these weights", "small")
    for one, other in zip(clips, found, strict=True):
        assert (one.key, one.tokens) == (other.key, other.tokens)
        torch.testing.assert_close(torch.tensor(one.values), torch.tensor(other.values), atol=5.1e-4, rtol=0)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FILE]


def test_an_evaluation_keeps_them_and_the_report_shows_them(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(run)
    path = run.evaluation("held_out") / FILE
    kept = path.read_bytes()
    _, system, clips = read_similarities(path.parent)
    assert (system, len(clips)) == ("quickstart", CLIPS)
    html = write_run_report(run).read_text(encoding="utf-8")
    assert html.count('class="cells"') == 2 * CLIPS  # each with its legend
    assert all(f"held_out, {clip.key}: quickstart" in html for clip in clips)
    # Nothing is left to predict: the model is not loaded, and what was measured stays.
    monkeypatch.setattr("kikimimi.evaluation.evaluate.load_model", None)
    evaluate(run)
    assert path.read_bytes() == kept
    path.unlink()
    evaluate(run)
    assert not path.exists()
    assert "Audio tokens and words" not in write_run_report(run).read_text(encoding="utf-8")


def test_a_stage_that_is_scored_has_its_own(run: RunFolder) -> None:
    stage = list(run.recipe.stages)[-1]
    evaluate_stage(run, stage, ["held_out"])
    folder = run.evaluation("held_out")
    assert read_similarities(folder)[1] == f"quickstart@{stage}"
    said = json.loads((folder / FILE).read_text(encoding="utf-8"))
    write_similarities(folder, "of other weights", "old", [])
    Predictions(folder / f"quickstart@{stage}.jsonl", "begun anew")
    evaluate_stage(run, stage, ["held_out"])
    assert json.loads((folder / FILE).read_text(encoding="utf-8")) == said


def test_clips_of_which_the_words_are_not_known(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = run.recipe.evaluate["held_out"]
    silent = replace(
        evaluation,
        task=Chosen.of("task", "prompted", transcript=None, prompts={"ja": ["何。"]}, language="ja"),
    )
    engine = Engine(load_model(run), CPU)
    assert similarities(engine, Corpus.open("held_out", silent), 0) == []
    monkeypatch.setattr("kikimimi.evaluation.similarity.LONGEST", 0.01)
    assert similarities(engine, corpus_of(run), 0) == []
