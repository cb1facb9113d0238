"""Adapters that learn from what is said in the clips: their losses, counts and vocabularies in a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from kikimimi.evaluation.evaluate import evaluate
from kikimimi.inference.load import load_model
from kikimimi.inference.transcriber import Transcriber
from kikimimi.report.run_report import write_run_report
from kikimimi.run.folder import RunFolder
from kikimimi.run.metrics import read_metrics
from kikimimi.testing import write_shard
from kikimimi.training.log_interval import MEASURED
from kikimimi.training.train import train

from .conftest import Make, rewind

SMALL = ("stages.asr.steps=4", "stages.asr.validate.every=2", "llm.scratch.dropout=0")


def lines(run: RunFolder) -> list[dict[str, object]]:
    return [line for line in read_metrics(run.metrics) if "loss" in line]


@pytest.mark.parametrize(
    ("adapter", "part"),
    [
        ("adapter={name: ctc, vocabulary: characters}", "ctc"),
        ("adapter={name: alignformer, hidden_dim: 32, num_heads: 2, ffn_dim: 32, vocabulary: llm}", "ctc"),
        ("adapter=cif", "quantity"),
    ],
)
def test_from_data_to_text(make_run: Make, adapter: str, part: str) -> None:
    run = make_run("run", adapter, *SMALL)
    train(run)
    for line in lines(run):
        together = float(str(line["loss/text"])) + float(str(line[f"loss/{part}"]))
        assert float(str(line["loss"])) == pytest.approx(together, abs=1e-5)
    scores = evaluate(run)
    assert list(scores) == ["held_out"]
    text = Transcriber(run).transcribe([torch.zeros(8000).numpy()])
    assert len(text) == 1


def test_an_interrupted_run_ends_the_same(make_run: Make) -> None:
    run = make_run("run", "adapter={name: ctc, vocabulary: characters}", "stages.asr.steps=4")
    train(run)
    whole, weights = lines(run), run.weights("asr").read_bytes()
    rewind(run, 3)
    train(run)
    assert [{k: v for k, v in line.items() if k not in MEASURED} for line in lines(run)] == [
        {k: v for k, v in line.items() if k not in MEASURED} for line in whole
    ]
    assert run.weights("asr").read_bytes() == weights


def test_the_vocabulary_is_kept_with_the_run(make_run: Make) -> None:
    run = make_run("run", "adapter={name: ctc, vocabulary: characters}", *SMALL)
    train(run)
    (kept,) = (run.assets / "adapter").iterdir()
    assert "お" in kept.read_text(encoding="utf-8")
    assert load_model(run).adapter.ctc.vocabulary.size > 5  # type: ignore[union-attr, operator]


def test_clips_whose_words_are_not_known_have_no_part_in_the_loss(make_run: Make, tmp_path: Path) -> None:
    talks = write_shard(tmp_path / "talks", 6, prefix="talk", form="conversations")
    data = f"stages.asr.data={{talks: {{shards: '{talks}', task: chat}}}}"
    run = make_run("run", "adapter={name: ctc, vocabulary: characters}", data, *SMALL)
    train(run)
    unknown = sum(float(str(line.get("count/ctc_without_transcript", 0))) for line in lines(run))
    assert unknown > 0
    assert all(float(str(line["loss/ctc"])) > 0 for line in lines(run))
    shown = re.sub(r"<[^>]*>|\s+", " ", write_run_report(run).read_text(encoding="utf-8"))
    assert re.search(rf"stage asr: ctc_without_transcript +{unknown:g} +counted by the adapter", shown)
