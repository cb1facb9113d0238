"""A validation loss is that of the model and the data: the mean over tokens, whatever a micro-batch holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from webdataset.writer import TarWriter

from kikimimi.data.audio import encode_flac
from kikimimi.data.corpus import Corpus
from kikimimi.data.order.loader import BatchDataset
from kikimimi.data.order.plan import Planned
from kikimimi.data.shards.indexing import build_index
from kikimimi.model.assembly import assemble
from kikimimi.model.trainable import load_trained
from kikimimi.run.folder import RunFolder
from kikimimi.training.train import train

from .conftest import Make, Training

SECONDS = (20, 60, 240)
"""What a micro-batch holds: the same model was seen to have losses of .318, .344 and .356."""
DATASETS = {"spoken": 8, "written": 60}
"""Held-out datasets, and how many records each has."""


def write_records(shard: Path, count: int, *, spoken: bool) -> Path:
    """Write questions in any length, and answers that are short and mixed, or long and always the same."""
    rng = np.random.default_rng(count)
    with TarWriter(str(shard), mtime=0) as tar:
        for number in range(count):
            clips: dict[str, bytes] = {}
            asked: list[dict[str, str]] = [{"type": "text", "text": "はい" * int(rng.integers(1, 40))}]
            if spoken:
                noise = rng.normal(0, 0.1, int(rng.integers(8_000, 64_000))).astype(np.float32)
                clips = {"0.flac": encode_flac(noise, 16_000)}
                asked = [{"type": "audio", "audio": "0.flac"}]
            answer = "".join(rng.choice([*"うえおかきく"], 3)) if number % 3 else "い" * (50 + 2 * number)
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
            tar.write({"__key__": f"{number}", "json": json.dumps({"messages": messages}).encode(), **clips})
    build_index(shard)
    return shard


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """A stage that changes nothing, so that all validations are of one model."""
    held_out = {
        name: write_records(tmp_path / f"{name}.tar", count, spoken=name == "spoken")
        for name, count in DATASETS.items()
    }
    data = ", ".join(f"{name}: {{shards: {path}, task: chat}}" for name, path in held_out.items())
    return [
        f"stages.asr.data={{tones: null, {data}}}",
        f"stages.asr.validate={{every: 1, data: {{held_out: null, {data}}}}}",
        "stages.asr.steps=1",
        "stages.asr.train={adapter: null, llm: {lr: 1.0e-30, weight_decay: 0}}",
        "adapter.fixed=['*']",
    ]


def validated(run: RunFolder) -> dict[str, float]:
    train(run)
    (found,) = (line for line in Training.curve(run.path) if "validation_loss" in line)
    return {name: value for name, value in found.items() if name.startswith("validation_loss")}


def by_hand(run: RunFolder) -> dict[str, float]:
    """Return the mean cross-entropy over tokens, record by record: of each dataset, and of both."""
    model = assemble(run.recipe, texts=list, assets=run.assets)
    load_trained(model, run.recipe, "asr", run.weights("asr"))
    model.eval()
    sums, tokens = dict.fromkeys(DATASETS, 0.0), dict.fromkeys(DATASETS, 0)
    for name, dataset in run.recipe.stages["asr"].validate.data.items():
        records = BatchDataset([Corpus.open(name, dataset)], model, 0, None)
        for row in range(DATASETS[name]):
            with torch.no_grad():
                scored = model(records[[Planned(0, row, 0)]])
            sums[name] += float(F.cross_entropy(scored.logits, scored.targets, reduction="sum"))
            tokens[name] += len(scored.targets)
    return {
        "validation_loss": sum(sums.values()) / sum(tokens.values()),
        **{f"validation_loss/{name}": sums[name] / tokens[name] for name in DATASETS},
    }


def test_it_is_the_mean_over_tokens(make_run: Make, options: list[str]) -> None:
    runs = [make_run(str(s), *options, f"stages.asr.batch={{seconds: {s}, global: 1}}") for s in SECONDS]
    found = [validated(run) for run in runs]
    expected = by_hand(runs[0])
    assert expected["validation_loss/spoken"] != pytest.approx(expected["validation_loss/written"], rel=1e-3)
    for losses in found:
        assert losses == pytest.approx(expected, rel=1e-6)


def test_over_micro_batches_it_depends_on_them(make_run: Make, options: list[str]) -> None:
    """Otherwise the losses above would say nothing of what they are means over."""
    losses = [
        validated(make_run(str(s), *options, f"stages.asr.batch={{seconds: {s}, loss: micro_batches}}"))
        for s in SECONDS
    ]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
    assert losses[1] != pytest.approx(losses[2], rel=1e-3)


def test_of_one_dataset_it_stands_alone(make_run: Make, options: list[str]) -> None:
    one = ("stages.asr.batch.seconds=20", "stages.asr.validate.data.spoken=null")
    assert list(validated(make_run("run", *options, *one))) == ["validation_loss"]
