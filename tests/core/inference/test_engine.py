from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from kikimimi import AudioPart, Conversation, Generation, Message, TextPart
from kikimimi.contracts.batch import Sample, collate
from kikimimi.errors import DataError, RoomError
from kikimimi.inference.engine import Engine, Prompt
from kikimimi.recipe import load_recipe
from kikimimi.testing import tiny_model

SHORT = Generation(max_new_tokens=4)


@pytest.fixture
def engine() -> Engine:
    recipe = load_recipe(Path(__file__).parents[3] / "recipes" / "quickstart.yaml")
    return Engine(tiny_model(recipe).eval(), torch.device("cpu"))


def prompt(name: str, *seconds: float, text: str = "何。") -> Prompt:
    audio = [AudioPart(str(number)) for number in range(len(seconds))]
    generator = torch.Generator().manual_seed(len(name))
    clips = [0.1 * torch.randn(round(length * 16000), generator=generator) for length in seconds]
    return Prompt(name, Conversation((Message("user", (*audio, TextPart(text))),)), clips)


def test_answers_come_in_the_order_of_the_prompts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [prompt(str(number), 0.3 + 0.2 * (number * 3 % 5)) for number in range(5)]
    prompts += [prompt("text"), prompt("two", 0.4, 0.6, text="二つ。")]
    batches: list[tuple[str, ...]] = []
    whole = engine.model.generate_ids

    def generate_ids(batch: Any, *rest: Any) -> list[list[int]]:
        batches.append(batch.names)
        return whole(batch, *rest)

    monkeypatch.setattr(engine.model, "generate_ids", generate_ids)
    found = engine.answer(prompts, SHORT, 3)
    assert batches == [("3", "two", "1"), ("4", "2", "0"), ("text",)]  # those of similar length together
    assert found == [engine.answer([one], SHORT)[0] for one in prompts]
    assert engine.answer([], SHORT) == []


def test_it_answers_as_the_model_does(engine: Engine) -> None:
    one = prompt("one", 0.5)
    sample = Sample("one", engine.model.llm.render(one.conversation, generate=True), one.clips)
    assert engine.answer([one], SHORT) == [
        engine.model.llm.decode(ids) for ids in engine.model.generate_ids(collate([sample]), SHORT)
    ]


@pytest.mark.parametrize(
    ("seconds", "message"),
    [
        ((0.4, 0.6), r"^shard, clip two: clip 1 lasts 0\.60 s, longer than the encoder takes \(0\.5 s\)"),
        ((0.6,), r"^shard, clip two: the clip lasts 0\.60 s, longer than the encoder takes"),
    ],
)
def test_a_clip_that_is_too_long(engine: Engine, seconds: Sequence[float], message: str) -> None:
    engine.max_seconds = 0.5
    engine.answer([prompt("both fit", 0.4, 0.4)], SHORT)
    with pytest.raises(DataError, match=message):
        engine.answer([prompt("fits", 0.4), prompt("shard, clip two", *seconds)], SHORT)


def test_a_prompt_that_leaves_no_room(engine: Engine) -> None:
    fits, long = prompt("fits", 0.3), prompt("shard, clip two", 0.3, text="長い" * 20)
    _, packed, _ = engine.pack([fits, long])
    context = int(packed.lengths[1])
    engine.model.llm.context_length = context
    message = (
        rf"^shard, clip two: too long for this run's LLM: a prompt of {context} positions leaves "
        rf"no room in the context of {context}; it may have {context - 1} at most\. Leave it out, shorten"
    )
    with pytest.raises(DataError, match=message):
        engine.answer([fits, long], SHORT)
    engine.model.llm.context_length = context + 1
    with pytest.warns(UserWarning, match="before max_new_tokens"):
        engine.answer([fits, long], SHORT)


def test_what_an_llm_refuses_is_told_with_the_names(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("not on Sundays")

    monkeypatch.setattr(engine.model.llm, "generate", refuse)
    with pytest.raises(DataError, match="a, b: the LLM cannot answer: not on Sundays"):
        engine.answer([prompt("a", 0.4), prompt("b", 0.3)], SHORT)
    monkeypatch.setattr(engine.model.llm, "render", refuse)
    with pytest.raises(DataError, match=r"^a: not on Sundays"):
        engine.answer([prompt("a", 0.4)], SHORT)


def test_an_answer_says_whether_it_was_cut(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [engine.model.llm.vocabulary.encode(text) for text in ("abcd", "abc", "")]
    monkeypatch.setattr(engine.model, "generate_ids", lambda *_: ids)
    prompts = [prompt(name, 0.3) for name in ("a", "b", "c")]
    found = engine.answer(prompts, SHORT)
    assert [(text, text.cut) for text in found] == [("abcd", True), ("abc", False), ("", False)]


def test_the_end_of_the_context_cuts_an_answer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    one = prompt("a", 0.3)
    _, packed, _ = engine.pack([one])
    engine.model.llm.context_length = int(packed.lengths.max()) + 2
    ids = engine.model.llm.vocabulary.encode("ab")
    monkeypatch.setattr(engine.model, "generate_ids", lambda *_: [ids])
    assert engine.answer([one], SHORT)[0].cut is True


def test_white_space_around_an_answer_is_left_out(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = engine.model.llm.vocabulary.encode(" a b\n")
    monkeypatch.setattr(engine.model, "generate_ids", lambda *_: [ids])
    assert engine.answer([prompt("a", 0.3)], Generation(max_new_tokens=9)) == ["a b"]


def test_a_thought_that_the_prompt_opens(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut within a thought is no answer."""
    ids = engine.model.llm.vocabulary.encode("so")
    monkeypatch.setattr(engine.model, "generate_ids", lambda *_: [ids])
    decode = engine.model.llm.decode
    monkeypatch.setattr(
        engine.model.llm, "decode", lambda given: decode(given) + "<think>\n" * (given != ids)
    )
    (found,) = engine.answer([prompt("a", 0.3)], SHORT)
    assert found == "<think>so"
    assert found.spoken == ""


def written(answer: str) -> Conversation:
    return Conversation((Message("user", (TextPart("何。"),)),)).answered(answer)


def test_answers_are_scored_token_by_token(engine: Engine) -> None:
    conversations = [written(answer) for answer in ("横浜です。", "はい。", "いいえ、そうではありません。")]
    found = engine.log_probabilities(conversations, 2)
    llm = engine.model.llm
    for (log_probability, tokens), conversation in zip(found, conversations, strict=True):
        rendered = llm.render(conversation)
        ids = torch.tensor(rendered.ids)
        targets = torch.tensor([place for place, wanted in enumerate(rendered.loss) if wanted])
        with torch.inference_mode():
            logits = llm(llm.embed(ids), torch.tensor([len(ids)]), targets - 1)
        expected = logits.log_softmax(dim=1).gather(1, ids[targets][:, None]).sum()
        assert tokens == len(targets)
        assert log_probability == pytest.approx(float(expected), rel=1e-5)


def test_a_text_that_does_not_fit_is_not_scored(engine: Engine) -> None:
    engine.model.llm.context_length = 20
    with pytest.raises(RoomError, match=r"a text of \d+ positions does not fit the LLM's context of 20"):
        engine.log_probabilities([written("は" * 20)])


def test_updates_that_act_on_audio_alone_change_no_text() -> None:
    recipe = load_recipe(
        Path(__file__).parents[3] / "recipes" / "quickstart.yaml",
        ["llm.lora={rank: 2, alpha: 4, modality: audio}", "stages.asr.train.llm={part: lora}"],
    )
    engine = Engine(tiny_model(recipe).eval(), torch.device("cpu"))
    before = engine.log_probabilities([written("はい。")])
    with torch.no_grad():
        for name, parameter in engine.model.named_parameters():
            if ".lora_" in name:
                parameter.add_(1)
    assert engine.log_probabilities([written("はい。")]) == before
