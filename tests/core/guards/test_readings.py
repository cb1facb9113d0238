"""What a model is asked for the guards, with one that answers by rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kikimimi import Answer, AudioPart, Conversation, Generation, Message, TextPart
from kikimimi.contracts.vocabulary import BytesVocabulary, CharacterVocabulary, Vocabulary
from kikimimi.data.shards.record import Record
from kikimimi.errors import DataError
from kikimimi.guards.readings import (
    NUM_CLIPS,
    AskedClip,
    Readings,
    SpokenPart,
    WrittenPart,
    asked_otherwise,
    read_model,
)
from kikimimi.guards.sets import held_out_texts, short_questions
from kikimimi.guards.verdict import judge_readings
from kikimimi.inference.engine import Prompt
from kikimimi.recipe import Guards, load_recipe
from kikimimi.testing import write_shard

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"
REQUEST = "Write it down."
IDENTITY = {"weights": "x", "heard": "nothing"}
Rule = Callable[[str, bool], str]


class Ruled:
    """Stands in for an engine: answers by a rule from the words of a prompt and whether it holds a clip."""

    sample_rate, max_seconds = 8000, 4.0

    def __init__(self, rule: Rule, vocabulary: Vocabulary | None = None, loss: float = 2.0) -> None:
        self.model = SimpleNamespace(llm=SimpleNamespace(vocabulary=vocabulary or BytesVocabulary()))
        self.rule, self.loss = rule, loss
        self.prompts: list[Prompt] = []

    def answer(self, prompts: Sequence[Prompt], generation: Generation) -> list[Answer]:
        self.prompts += prompts
        for prompt in prompts:
            assert all(len(clip) <= self.max_seconds * self.sample_rate for clip in prompt.clips)
        return [Answer(self.rule(words(prompt.conversation), bool(prompt.clips))) for prompt in prompts]

    def log_probabilities(self, conversations: Sequence[Conversation]) -> list[tuple[float, int]]:
        sizes = [len(one.reference()) for one in conversations]
        return [(-self.loss * size, size) for size in sizes]


def words(conversation: Conversation) -> str:
    return "".join(part.text for part in conversation.messages[-1].parts if isinstance(part, TextPart))


class Clips:
    """Stands in for a corpus."""

    def waveforms(self, record: Record, clips: list[str], sample_rate: int) -> list[Tensor]:
        return [torch.ones(int(record.json["seconds"] * sample_rate)) for _ in clips]


def spoken(*seconds: float) -> SpokenPart:
    prompt = Conversation((Message("user", (AudioPart("0.flac"), TextPart(REQUEST))),))
    clips = [
        AskedClip(Record(f"clip-{n}", {"seconds": length}, {}, "a.tar", 0), prompt, "It rains.")
        for n, length in enumerate(seconds)
    ]
    return SpokenPart(Clips(), clips, "held_out")  # type: ignore[arg-type]


def read(
    engine: Ruled, part: SpokenPart | None = None, written: WrittenPart | None = None, *, hears: bool = True
) -> Readings:
    return read_model(engine, Guards(languages=["en"]), part, written, IDENTITY, hears=hears)  # type: ignore[arg-type]


def failed(readings: Readings, before: Readings | None = None) -> set[str]:
    rows = judge_readings(readings, before, "none", Guards(languages=["en"]))
    return {row["guard"] for row in rows if row["passed"] is False}


def test_what_is_asked() -> None:
    def rule(asked: str, heard: bool) -> str:
        if not heard:
            return next(one.answers[0] for one in short_questions("en") if asked.startswith(one.question))
        return "It rains." if asked == REQUEST else "2"

    engine = Ruled(rule)
    readings = read(engine, spoken(1.0, 2.0))
    kinds = [one["kind"] for one in readings["replies"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "question": len(short_questions("en")),
        "silence": 20,
        "transcript": 2,
        "instruction": 8,
    }
    assert readings["losses"] == {"en": [(2.0 * len(text), len(text)) for text in held_out_texts("en")]}
    assert readings["missing"] == {}
    assert all(words(one.conversation).endswith("Answer with one word.") for one in engine.prompts[:42])
    assert all(words(one.conversation) == REQUEST for one in engine.prompts[42:62])
    assert failed(readings) == {"silence"}  # it says that it rains, whatever it hears


def test_a_model_that_transcribes_whatever_it_is_asked() -> None:
    readings = read(Ruled(lambda asked, heard: "It rains." if heard else "Paris"), spoken(1.0))
    assert failed(readings) == {"silence", "instructions"}


def test_a_model_that_has_forgotten() -> None:
    def knows(asked: str, heard: bool) -> str:
        return next(one.answers[0] for one in short_questions("en") if asked.startswith(one.question))

    before = read(Ruled(knows), hears=False)
    assert {one["kind"] for one in before["replies"]} == {"question"}
    assert failed(before, before) == set()
    assert failed(read(Ruled(knows, loss=2.3), hears=False), before) == {"forgetting"}
    assert failed(read(Ruled(lambda *_: "hm"), hears=False), before) == {"forgetting"}
    assert failed(read(Ruled(lambda *_: "東京"), hears=False), before) == {"forgetting", "language"}
    assert failed(read(Ruled(lambda *_: "I cannot say."), hears=False), before) == {"forgetting", "refusals"}
    assert failed(read(Ruled(lambda *_: "so " * 20), hears=False), before) == {"forgetting", "repetition"}


def test_without_clips_it_says_so() -> None:
    readings = read(Ruled(lambda *_: "Paris"))
    assert set(readings["missing"]) == {"silence", "clips"}
    rows = judge_readings(readings, None, "none", Guards(languages=["en"]))
    (silence,) = [row for row in rows if row["guard"] == "silence"]
    assert silence["passed"] is None
    assert "asks for transcripts" in silence["why"]


def test_what_a_vocabulary_cannot_spell_is_not_asked() -> None:
    readings = read(Ruled(lambda *_: "", CharacterVocabulary("abc")), hears=False)
    assert readings["losses"] == {}
    assert readings["replies"] == []
    assert readings["missing"] == {
        "loss en": "the LLM's vocabulary spells 0 of the sentences",
        "questions en": "the LLM's vocabulary spells 0 of the questions",
    }


def test_an_evaluation_stands_in_for_sets_that_cannot_be_spelled() -> None:
    user = [Conversation((Message("user", (TextPart(f"say {n}"),)),)) for n in range(12)]
    part = WrittenPart({f"own/{n}": one.answered(f"{n}!") for n, one in enumerate(user)}, "chat")
    few = CharacterVocabulary("abc")
    before = read(Ruled(lambda asked, _: asked.removeprefix("say "), few), written=part, hears=False)
    assert before["losses"] == {"own": [(2.0 * size, size) for size in [2] * 10 + [3] * 2]}
    assert failed(before, before) == set()
    worse = read(Ruled(lambda asked, _: asked, few), written=part, hears=False)
    (loss, right) = judge_readings(worse, before, "none", Guards(languages=["en"]))[:2]
    assert (loss["what"], loss["passed"]) == ("loss of held-out answers of an evaluation [nats/token]", True)
    assert (right["before"], right["after"], right["passed"]) == (1, 0, False)
    assert right["what"] == "right answers to 12 requests of an evaluation"
    # Where the sets can be spelled, they are asked.
    spelled = read(Ruled(lambda *_: "Paris"), written=part, hears=False)
    assert set(spelled["losses"]) == {"en"}
    assert not any(one["name"].startswith("own/") for one in spelled["replies"])


@pytest.mark.parametrize(("form", "task", "found"), [("clips", "asr", 0), ("clips", "emotion", 8)])
def test_what_stands_in_is_no_transcript(tmp_path: Path, form: Any, task: str, found: int) -> None:
    shards = write_shard(tmp_path, 8, form=form)
    recipe = load_recipe(QUICKSTART, [f"evaluate={{x: {{shards: '{shards}', task: {task}}}}}"])
    part = WrittenPart.find(recipe)
    assert (0 if part is None else len(part.conversations)) == found


def test_what_a_model_cannot_take_is_missing_with_the_reason() -> None:
    def refuse(asked: str, heard: bool) -> str:
        if heard:
            raise DataError("no room in the context")
        return "Paris"

    readings = read(Ruled(refuse), spoken(1.0))
    assert readings["missing"] == {"silence": "no room in the context", "clips": "no room in the context"}


def test_clips_that_are_too_long_are_left_out() -> None:
    readings = read(Ruled(lambda *_: "hm"), spoken(1.0, 5.0))
    assert [one["name"] for one in readings["replies"] if one["kind"] == "transcript"] == ["clip-0"]


def test_the_instruction_stands_where_the_request_stood() -> None:
    clip, system = AudioPart("a"), Message("system", (TextPart("You hear."),))
    after = Conversation((system, Message("user", (clip, TextPart("x"), TextPart("y")))))
    assert asked_otherwise(after, "Count.").messages == (system, Message("user", (clip, TextPart("Count."))))
    ahead = Conversation((Message("user", (TextPart("x"), clip)),))
    assert asked_otherwise(ahead, "Count.").messages == (Message("user", (TextPart("Count."), clip)),)
    alone = Conversation((Message("user", (clip,)),))
    assert asked_otherwise(alone, "Count.").messages == (Message("user", (clip, TextPart("Count."))),)


@pytest.mark.parametrize(("task", "found"), [("asr", NUM_CLIPS), ("emotion", 0)])
def test_clips_are_from_an_evaluation_that_asks_for_transcripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, found: int
) -> None:
    monkeypatch.chdir(tmp_path)  # where the quickstart has made no data
    shards = write_shard(tmp_path, 8)
    recipe = load_recipe(
        QUICKSTART,
        [f"evaluate={{gone: {{shards: nowhere.tar, task: asr}}, x: {{shards: '{shards}', task: {task}}}}}"],
    )
    part = SpokenPart.find(recipe)
    assert (0 if part is None else len(part.clips)) == found
    if part is not None:
        assert part.identity.startswith("x, ")
        assert [clip.language for clip in part.clips] == ["ja"] * found
        again = SpokenPart.find(recipe)
        assert again is not None
        assert [clip.record.key for clip in again.clips] == [clip.record.key for clip in part.clips]
