from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from webdataset.writer import TarWriter

from kikimimi.contracts.vocabulary import BytesVocabulary, Vocabulary
from kikimimi.data.corpus import all_texts, training_corpora
from kikimimi.data.order.loader import BatchDataset, PlanSampler
from kikimimi.data.order.sources import make_plan
from kikimimi.data.shards.indexing import build_index
from kikimimi.errors import RequestError
from kikimimi.inspect.show import (
    Shown,
    ShownStage,
    ShownTokens,
    print_stage,
    rendered,
    seconds_of,
    show,
    spell,
    token_lines,
)
from kikimimi.model.assembly import assemble
from kikimimi.recipe import Chosen, Dataset, Recipe, load_recipe
from kikimimi.testing import write_shard

RECIPE = """
name: small
encoder:
  name: whisper
  weights: random
  sizes: {{dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 32, num_positions: 100}}
adapter: {{name: mlp, hidden_dim: 32}}
llm:
  name: llama
  weights: random
  scratch: {{dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 32, tokenizer: characters, context_length: 128}}
stages:
  asr:
    train: {{adapter: {{lr: 1.0e-3}}}}
    data: {{tones: {{shards: "{tones}", task: asr}}, chat: {{shards: "{chat}", task: chat}}}}
    batch: {{seconds: 3, global: 2}}
    steps: 40
  later:
    train: {{llm: {{lr: 1.0e-3}}}}
    data: {{tones: {{shards: "{tones}", task: asr}}}}
    steps: 2
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("recipe")
    path = folder / "small.yaml"
    tones = write_shard(folder, 8, prefix="tones")
    chat = write_shard(folder, 4, prefix="chat", form="conversations")
    path.write_text(RECIPE.format(tones=tones, chat=chat), encoding="utf-8")
    return load_recipe(path)


def stage(recipe: Recipe, **options: object) -> tuple[ShownStage, list[Shown]]:
    (found,) = show(recipe, **{"stage": "asr", **options})  # type: ignore[arg-type]
    return found, list(found.shown)


def test_the_records_are_those_of_training(recipe: Recipe) -> None:
    corpora = list(training_corpora(recipe))
    model = assemble(recipe, texts=lambda: all_texts(corpora))
    options = recipe.stages["asr"]
    corpora = corpora[:2]
    plan = make_plan(corpora, [None, None], model, options.batch, options.mixture, recipe.seed)
    batches = BatchDataset(corpora, model, recipe.seed, None)
    expected = [
        (number // 2 + 1, number % 2 + 1, place, batches[[item]])
        for number, planned in enumerate(PlanSampler(plan, 20, 0, 1))
        for place, item in enumerate(planned, start=1)
    ]
    _, records = stage(recipe, count=30)
    assert len(records) == 30
    assert {shown.number_of_pass for shown in records} == {1, 2, 3}
    for shown, (step, micro_batch, place, batch) in zip(records, expected, strict=False):
        assert (shown.step, shown.micro_batch, shown.place) == (step, micro_batch, place)
        assert batch.names == (f"{shown.dataset}/{shown.where.split(chr(39))[1]}",)
        slots = batch.slots.tolist()
        ids = [() if i in slots else (number,) for i, number in enumerate(batch.ids.tolist())]
        assert [token.ids for token in shown.tokens] == ids
        assert [token.target for token in shown.tokens] == batch.loss.tolist()
        assert batch.audio is not None
        lengths = batch.audio.lengths.tolist()
        assert shown.positions == model.max_positions(len(ids), lengths)
        assert shown.seconds == pytest.approx(sum(lengths) / 16_000, abs=1e-3)
        assert shown.cost == pytest.approx(shown.seconds)
        assert shown.problem is None


def test_turns_are_told_apart(recipe: Recipe) -> None:
    _, records = stage(recipe, count=24)
    for shown in records:
        spoken = [piece for piece in shown.pieces if piece.role is not None and piece.kind == "text"]
        assert [piece.role for piece in spoken] == ["user", "assistant"]
        assert [piece.target for piece in spoken] == [False, True]
        control = [piece.text for piece in shown.pieces if piece.kind == "control"]
        assert control == ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]
        (audio,) = [piece.text for piece in shown.pieces if piece.kind == "audio"]
        assert audio == f"0.flac {shown.seconds:.2f} s -> {shown.audio_tokens} tokens"
        learnt = "".join(piece.text for piece in shown.pieces if piece.target)
        assert learnt == f"{spoken[1].text}<|end|>"
        assert shown.targets == len(spoken[1].text) + 1
        assert shown.text_tokens == len(shown.tokens) - 1
    requests = {shown.pieces[2].text for shown in records if shown.dataset == "tones"}
    assert len(requests) > 3
    assert {shown.rejected is not None for shown in records if shown.dataset == "chat"} == {True}
    assert {shown.rejected for shown in records if shown.dataset == "tones"} == {None}


def test_of_a_preference_the_last_turn_alone_is_learnt(recipe: Recipe, tmp_path: Path) -> None:
    turns = [
        {"role": role, "content": text}
        for role, text in [("user", "a"), ("assistant", "b"), ("user", "a"), ("assistant", "bab")]
    ]
    with TarWriter(str(tmp_path / "talks.tar")) as shard:
        shard.write({"__key__": "0", "json": json.dumps({"messages": turns, "rejected": "ba"}).encode()})
    build_index(tmp_path / "talks.tar")
    data = {"talks": Dataset(shards=str(tmp_path / "talks.tar"), task=Chosen.of("task", "chat"))}
    for chosen, learnt in (("all", "b<|end|>bab<|end|>"), ("last", "bab<|end|>")):
        objective = Chosen.of("objective", "dpo", turns=chosen)
        preferring = replace(recipe.stages["later"], objective=objective, data=data)
        _, (shown, *_) = stage(replace(recipe, stages={"asr": preferring}), count=1)
        assert "".join(token.text for token in shown.tokens if token.target) == learnt
        assert shown.rejected == "ba"


def test_one_dataset_in_the_same_order(recipe: Recipe) -> None:
    _, everything = stage(recipe, count=1000)
    found, chat = stage(recipe, count=5, dataset="chat")
    assert chat == [shown for shown in everything if shown.dataset == "chat"][:5]
    assert found.records == {"tones": 8, "chat": 4}
    # The second stage does not read it.
    assert [item.name for item in show(recipe, dataset="chat")] == ["asr"]
    assert [item.name for item in show(recipe)] == ["asr", "later"]
    assert everything[-1].step == recipe.stages["asr"].steps


def test_from_a_later_step_on(recipe: Recipe) -> None:
    _, everything = stage(recipe, count=1000)
    _, later = stage(recipe, count=1000, step=9)
    assert later == [shown for shown in everything if shown.step >= 9]


def test_the_seed_changes_the_order(recipe: Recipe) -> None:
    assert stage(recipe)[1] != stage(replace(recipe, seed=1))[1]
    assert stage(recipe)[1] == stage(recipe)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "asm"}, r"no stage is called 'asm'. Did you mean 'asr'\? Stages: asr, later"),
        (
            {"dataset": "tone"},
            r"the recipe trains on no dataset 'tone'. Did you mean 'tones'\? Datasets: chat, tones",
        ),
        ({"stage": "later", "dataset": "chat"}, "stage 'later' trains on no dataset 'chat'. Datasets: tones"),
        ({"stage": "later", "step": 3}, "stage 'later' has 2 steps; there is no step 3"),
    ],
)
def test_what_is_not_there(recipe: Recipe, options: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        list(show(recipe, **options))  # type: ignore[arg-type]


def test_no_weights_are_read(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("encoder", "adapter", "llm"):
        monkeypatch.setattr(getattr(recipe, part).component, "load_weights", None)
    assert len(stage(recipe, count=1)[1]) == 1


@pytest.fixture
def damaged(recipe: Recipe, tmp_path: Path) -> Recipe:
    """Every label of the only dataset is damaged, so that a character tokenizer cannot be built."""
    shard = Path(write_shard(tmp_path, 3))
    shard.write_bytes(shard.read_bytes().replace(b'"text"', b'"tixt"'))
    options = recipe.stages["asr"]
    data = {"tones": replace(options.data["tones"], shards=str(shard))}
    llm = replace(
        recipe.llm,
        config=replace(recipe.llm.config, scratch=replace(recipe.llm.config.scratch, tokenizer="bytes")),
    )
    return replace(recipe, llm=llm, stages={"asr": replace(options, data=data)})


def test_a_record_that_cannot_be_used(damaged: Recipe) -> None:
    found, records = stage(damaged, count=2)
    assert [shown.tokens for shown in records] == [(), ()]
    for shown in records:
        assert "the bytes are not those that were indexed" in (shown.problem or "")
    text = printed(found, records)
    assert text.count("cannot be used: ") == 2
    assert "positions" not in text


def printed(found: ShownStage, records: list[Shown], *, tokens: bool = False, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(), force_terminal=colour, width=80, color_system="standard" if colour else None
    )
    print_stage(console, replace(found, shown=iter(records)), tokens=tokens)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_printed_without_colour(recipe: Recipe) -> None:
    found, (first, *_) = stage(recipe, count=3)
    lines = printed(found, [first]).splitlines()
    assert lines[:2] == ["stage asr", "tones: 8 records, chat: 4 records"]
    assert lines[2].startswith("an epoch has about ")
    assert lines[2].endswith("micro-batches of up to 3 s; 40 steps take 80")
    assert lines[4] == f"1. {first.dataset}  {first.where}"
    assert lines[5] == (
        f"   step 1, micro-batch 1 of 2, record 1 of {first.num_records}, pass 1 through the dataset"
    )
    assert lines[6] == (
        f"   {first.seconds:.2f} s of audio; {first.text_tokens} text tokens + "
        f"{first.audio_tokens} audio tokens = {first.positions} positions "
        f"({first.positions / 1.28:.1f} % of the context of 128, "
        f"{first.cost / 0.03:.1f} % of the micro-batch's 3 s); {first.targets} targets"
    )
    answer = next(piece.text for piece in first.pieces if piece.role == "assistant")
    assert lines[7].startswith("   <|user|>\u25d60.flac ")
    assert lines[7].endswith(f"<|end|><|assistant|>[[{answer}<|end|>]]")


def test_a_record_and_its_clip_are_of_one_length(recipe: Recipe) -> None:
    # Single precision has no 3.895: what is nearest is above it or below, and is rounded so.
    in_index = float(np.float32(62_320 / 16_000))
    assert f"{in_index:.2f}" != f"{62_320 / 16_000:.2f}"
    assert seconds_of(62_320, 16_000) == in_index
    _, records = stage(recipe, count=8, dataset="tones")
    for record in records:
        assert f"0.flac {record.seconds:.2f} s -> " in rendered(record.pieces, marks=False).plain


def test_printed_in_colour(recipe: Recipe) -> None:
    found, records = stage(recipe, count=2, dataset="chat")
    text = printed(found, records, colour=True)
    assert "[[" not in text
    answer = next(piece.text for piece in records[0].pieces if piece.role == "assistant")
    assert f"\x1b[1;4;32m{answer}\x1b[0m" in text
    assert f"rejected: \x1b[0m{records[0].rejected}" in text


def test_tokens_one_on_a_line(recipe: Recipe) -> None:
    found, records = stage(recipe, count=1, dataset="tones")
    lines = printed(found, records, tokens=True).splitlines()[8:-1]
    assert len(lines) == len(records[0].tokens)
    assert lines[0].split() == ["0", str(records[0].tokens[0].ids[0]), "<|user|>"]
    assert lines[1].split()[:3] == ["1", "-", "\u25d60.flac"]
    assert lines[-1].split() == [str(len(lines) - 1), str(records[0].tokens[-1].ids[0]), "target", "<|end|>"]
    assert sum("target" in line for line in lines) == records[0].targets


def test_everything_can_be_seen() -> None:
    pieces = [
        ShownTokens("control", None, False, (1,), "<s>"),
        ShownTokens("text", "user", False, (4, 5), "a\nb\x1b[31m\u200b [bold]"),
        ShownTokens("audio", "user", False, (), "0.flac 1.00 s -> 4 tokens"),
        ShownTokens("text", "assistant", True, (6,), "c"),
        ShownTokens("control", None, True, (2,), "</s>"),
        ShownTokens("text", None, False, (3,), "\n"),
    ]
    assert rendered(pieces, marks=True).plain == (
        "   <s>a\u21b5\n   b\\x1b[31m\\u200b [bold]\u25d60.flac 1.00 s -> 4 tokens\u25d7[[c</s>]]\u21b5\n   "
    )
    assert "[[" not in rendered(pieces, marks=False).plain
    tokens = [ShownTokens("text", None, True, (7,), " \n"), ShownTokens("control", None, False, (2,), "</s>")]
    first, second = token_lines(tokens, marks=True)
    assert first.plain.split(maxsplit=3) == ["0", "7", "target", "' \\n'"]
    assert second.plain.split() == ["1", "2", "</s>"]


class _Words(Vocabulary):
    """Like SentencePiece: a word brings the blank before it, and a text does not begin with one."""

    size = 3

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: Iterator[int]) -> str:  # type: ignore[override]
        return "".join([" a", " b", "c"][number] for number in ids).lstrip()


def test_blanks_of_words_are_kept() -> None:
    assert spell(_Words(), [0, 1, 2]) == " a bc"
    assert spell(_Words(), [2]) == "c"
    assert spell(BytesVocabulary(), list("あい".encode())) == "あい"
