"""What tasks make is rendered by an LLM: clips become slots, and all answers are learnt, nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from kikimimi.contracts import registry
from kikimimi.contracts.component import LLM
from kikimimi.contracts.conversation import TextPart, parse_conversation
from kikimimi.data.corpus import Corpus
from kikimimi.recipe import Chosen, Dataset
from kikimimi.testing import write_shard
from kikimimi.testing.llm_checks import LLMSubject
from kikimimi_llms.decoder import Llama

END = "<|end|>"


@pytest.fixture(scope="module")
def llm() -> LLM:
    built: LLM = LLMSubject(Llama).build()
    return built


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("shards")
    return {
        "clips": write_shard(folder, 2),
        "conversations": write_shard(folder, 2, prefix="talk", form="conversations"),
    }


def _learnt(llm: Any, conversation: Any) -> str:
    rendered = llm.render(conversation)
    assert len(rendered.slots) == len(conversation.clips())
    assert not any(rendered.loss[slot] for slot in rendered.slots)
    ids = [token for token, wanted in zip(rendered.ids, rendered.loss, strict=True) if wanted]
    text: str = llm.chat.tokenizer.decode(ids)
    return text


def _answers(conversation: Any) -> list[str]:
    return [
        "".join(part.text for part in message.parts if isinstance(part, TextPart))
        for message in conversation.messages
        if message.role == "assistant"
    ]


@pytest.mark.parametrize("name", registry.names("task"))
def test_every_task_is_learnt_from_synthetic_shards(name: str, llm: LLM, shards: dict[str, str]) -> None:
    form = "conversations" if name == "chat" else "clips"
    corpus = Corpus.open(name, Dataset(shards=shards[form], task=Chosen.of("task", name)))
    for row in range(2):
        conversation = corpus.conversation(corpus.shards.read(row))
        assert set(conversation.clips()) == {"0.flac"}
        assert _learnt(llm, conversation) == "".join(f"{answer}{END}" for answer in _answers(conversation))


USER = {"role": "user", "content": [{"type": "audio", "audio": "0.flac"}]}
WRITTEN = {"role": "user", "content": "いくつ。"}
MIXED = {
    "role": "user",
    "content": [
        {"type": "text", "text": "前"},
        {"type": "audio", "audio": "1.flac"},
        {"type": "text", "text": "間"},
        {"type": "audio", "audio": "0.flac"},
        {"type": "text", "text": "後"},
    ],
}


@pytest.mark.parametrize(
    ("record", "clips", "learnt"),
    [
        ({"messages": [WRITTEN], "chosen": "三つ。"}, 0, ["三つ。"]),
        ({"messages": [USER], "chosen": "はい。", "rejected": "いいえ。"}, 1, ["はい。"]),
        (
            {
                "messages": [
                    {"role": "system", "content": "短く。"},
                    USER,
                    {"role": "assistant", "content": "一。"},
                    MIXED,
                    {"role": "assistant", "content": "二。"},
                    WRITTEN,
                    {"role": "assistant", "content": "三。"},
                ]
            },
            3,
            ["一。", "二。", "三。"],
        ),
    ],
)
def test_conversations_of_every_form(record: dict[str, Any], clips: int, learnt: list[str], llm: LLM) -> None:
    conversation = parse_conversation(record)
    assert len(conversation.clips()) == clips
    assert _learnt(llm, conversation) == "".join(f"{answer}{END}" for answer in learnt)


def test_words_that_help_are_ids_between_request_and_answer(llm: Any) -> None:
    """By hand: the template's own tokens around the slot, the request, a line break and the words."""
    component = registry.load("task", "asr")
    task = component(component.Config(context="names"))
    ids = llm.render(task.question_in_context("en", "Ezo"), generate=True).ids
    bare = llm.render(task.question("en"), generate=True).ids
    spelled = llm.chat.tokenizer.encode("\nEzo", add_special_tokens=False)
    end = next(n for n in range(1, len(bare)) if bare[-n] != ids[-n]) - 1  # END and the answer's header
    assert ids == [*bare[:-end], *spelled, *bare[-end:]]
    assert llm.chat.tokenizer.decode(bare[-end:]).startswith(END)
