"""What records cost: audio seconds, or positions of the LLM, bounded by the adapter's contract."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest

from kikimimi.contracts.batch import collate
from kikimimi.data.corpus import Corpus, all_texts, training_corpora
from kikimimi.data.order.sources import audio_tokens, make_plan, record_costs, usable
from kikimimi.data.shards.indexing import build_index
from kikimimi.errors import DataError
from kikimimi.inference.load import load_model
from kikimimi.model.assembly import assemble
from kikimimi.recipe import Batching, Mixture, Recipe
from kikimimi.run.folder import RunFolder
from kikimimi.run.metrics import read_metrics
from kikimimi.training.train import train

from .conftest import Make, stay_random


@pytest.fixture
def chat(make_run: Make, conversations: str) -> Recipe:

    return make_run("chat", f"stages.asr.data.tones={{shards: {conversations}, task: chat}}").recipe


def test_positions_are_bounded_by_the_adapter_and_estimated_from_text(chat: Recipe) -> None:
    corpora = list(training_corpora(chat))
    model = assemble(chat, texts=lambda: all_texts(corpora))
    (corpus,) = corpora
    costs, tokens = record_costs(corpus, model, Batching(tokens=500)), audio_tokens(corpus, model)
    text = []
    for row in range(len(corpus.shards)):
        sample = corpus.sample(row, model.llm, 16_000, phrasing_seed=None)
        lengths = [len(clip) for clip in sample.clips]
        bound = sum(model.adapter.max_tokens(model.encoder.num_frames(n)) for n in lengths)
        assert bound <= tokens[row] <= bound + len(lengths)  # lengths count by hundredths of a second
        packed, _ = model.pack(collate([sample]))
        assert len(packed.ids) <= len(sample.rendered.ids) - len(lengths) + tokens[row]
        text.append(len(sample.rendered.ids) - len(lengths))
    # One text is estimated well enough, and all of them together very well.
    estimated = costs - tokens
    assert np.abs(estimated - text).max() <= 12
    assert estimated.sum() == pytest.approx(sum(text), rel=0.02)


def test_a_conversation_without_an_answer_is_no_training_data(
    make_run: Make, write_tar: Callable[..., Path]
) -> None:
    """It may stand in a shard, to be asked; trained on, it would count as a record and teach nothing."""
    asked = {"role": "user", "content": "はい"}
    answered = {"role": "assistant", "content": "いいえ"}
    talks = {"a": [asked], "b": [asked, answered], "c": [asked, answered, asked]}
    members = [(f"{key}.json", json.dumps({"messages": talk}).encode()) for key, talk in talks.items()]
    path = write_tar(members)
    build_index(path)
    run = make_run("chat", f"stages.asr.data.tones={{shards: {path}, task: chat}}")
    with pytest.raises(DataError, match=r"record 'a': nothing to learn: no turn is the assistant's"):
        train(run)
    corpora = list(training_corpora(run.recipe))
    (corpus,), llm = corpora, assemble(run.recipe, texts=lambda: all_texts(corpora)).llm
    for row in (1, 2):
        assert any(corpus.sample(row, llm, 16_000, phrasing_seed=None).rendered.loss)
    assert not any(corpus.sample(0, llm, 16_000, phrasing_seed=None, views=["prompt"]).rendered.loss)


def test_a_budget_of_tokens_trains(chat: Recipe, tmp_path: Path) -> None:
    from dataclasses import replace

    stage = replace(chat.stages["asr"], batch=Batching(tokens=300, global_=2))
    run = RunFolder.create(tmp_path / "tokens", replace(chat, name="tokens", stages={"asr": stage}))
    train(run)
    losses = [line["loss"] for line in read_metrics(run.metrics) if "loss" in line]
    assert len(losses) == 8
    stage = replace(chat.stages["asr"], batch=Batching(tokens=60))
    with pytest.raises(DataError, match=r"of 20 records have more than a micro-batch holds \(60 positions\)"):
        train(RunFolder.create(tmp_path / "few", replace(chat, name="few", stages={"asr": stage})))


def test_text_alone_is_learned_and_the_adapter_left_alone(chat: Recipe, tmp_path: Path) -> None:
    """Micro-batches without audio, whatever is trained: the adapter alone has nothing to learn from them."""
    from dataclasses import replace

    from kikimimi.recipe import Train
    from kikimimi.recipe.chosen import PartName

    both: dict[PartName, Train] = {"adapter": Train(), "llm": Train()}
    alone: dict[PartName, Train] = {"adapter": Train()}
    for parts in (alone, both):
        stage = replace(chat.stages["asr"], train=parts, batch=Batching(seconds=8.0), steps=12)
        recipe = stay_random(replace(chat, stages={"asr": stage}))
        run = RunFolder.create(tmp_path / "-".join(parts), recipe)
        train(run)
        lines = [line for line in read_metrics(run.metrics) if "loss" in line]
        assert len(lines) == 12
        silent = [line for line in lines if line["audio_seconds_per_second"] == 0]
        assert silent
        assert all((line["gradient_norm"] == 0) == ("llm" not in parts) for line in silent)


def test_mixtures_reach_the_plan(make_run: Make, tmp_path: Path) -> None:
    from kikimimi.testing import write_shard

    other = write_shard(tmp_path / "other", 6, prefix="other")
    run = make_run(
        "mixed",
        f"stages.asr.data.other={{shards: {other}, task: asr, weight: 3}}",
        "stages.asr.data.tones.weight=1",
        "stages.asr.steps=30",
    )
    train(run)
    counts: Counter[str] = Counter()
    for line in read_metrics(run.metrics):
        counts.update({name: value for name, value in line.items() if name.startswith("count/records/")})
    share = counts["count/records/other"] / sum(counts.values())
    assert share == pytest.approx(0.75, abs=0.06)
    corpora = [Corpus.open(name, source) for name, source in run.recipe.stages["asr"].data.items()]
    model = load_model(run)
    corpora = [usable(corpus, model, Batching(), skip=False)[0] for corpus in corpora]
    even = make_plan(corpora, [1, 1], model, Batching(), Mixture(by="seconds"), 0)
    seconds: Counter[int] = Counter()
    total = sum(even.num_micro_batches(epoch) for epoch in range(20))
    for planned in chain.from_iterable(islice(even.micro_batches(), total)):
        seconds[planned.source] += float(corpora[planned.source].shards.seconds[planned.row])  # type: ignore[assignment]
    assert seconds[0] == pytest.approx(seconds[1], rel=0.1)
