from __future__ import annotations

from typing import Any

import pytest

from kikimimi.contracts.conversation import AudioPart, TextPart
from kikimimi.contracts.registry import load
from kikimimi_tasks.chat import Chat, ChatConfig


def _record(clip: str = "0.flac") -> dict[str, Any]:
    turns = [
        {"role": "user", "content": [{"type": "audio", "audio": clip}]},
        {"role": "assistant", "content": "はい。"},
    ]
    return {"messages": turns, "rejected": "いいえ。", "meta": {"license": "CC0-1.0"}}


def test_is_registered() -> None:
    assert load("task", "chat") is Chat


def test_the_record_is_the_conversation() -> None:
    conversation = Chat(ChatConfig()).conversation(_record(), ["0.flac"], None)
    assert [message.parts for message in conversation.messages] == [
        (AudioPart("0.flac"),),
        (TextPart("はい。"),),
    ]
    assert conversation.rejected == "いいえ。"
    assert conversation.meta == {"license": "CC0-1.0"}
    assert Chat(ChatConfig()).phrasings() == []


def test_a_request_stands_beside_turns_of_audio_alone() -> None:
    request = "音声の指示に従ってください。"
    spoken = {"role": "user", "content": [{"type": "audio", "audio": "0.flac"}]}
    both = [{"type": "audio", "audio": "1.flac"}, {"type": "text", "text": "要約して。"}]
    answer = {"role": "assistant", "content": "はい。"}
    record = {"messages": [spoken, answer, {"role": "user", "content": both}, answer]}
    task = Chat(ChatConfig(request=request))
    turns = [message.parts for message in task.conversation(record, ["0.flac", "1.flac"], None).messages]
    assert turns[0] == (AudioPart("0.flac"), TextPart(request))
    assert turns[2] == (AudioPart("1.flac"), TextPart("要約して。"))
    assert turns[1] == turns[3] == (TextPart("はい。"),)
    assert task.phrasings() == [request]
    text_first = Chat(ChatConfig(request=request, order="text_first"))
    first = text_first.conversation(record, ["0.flac", "1.flac"], None)
    assert first.messages[0].parts == (TextPart(request), AudioPart("0.flac"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"request": " "}, "request: must not be blank; null is allowed"),
        ({"order": "text_first"}, "order: says where the request stands, and there is none"),
        ({"order": "text_frist", "request": "x"}, "Did you mean 'text_first'"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChatConfig(**options)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (_record("0.flacc"), r"names the clip '0\.flacc', which the record lacks\. Did you mean '0\.flac'\?"),
        ({"text": "x"}, "the record is a labelled clip, not a conversation: use a task such as 'asr'"),
        ({"messages": []}, "messages: expected a list of at least one turn"),
    ],
)
def test_refuses(record: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chat(ChatConfig()).conversation(record, ["0.flac"], None)


def test_has_no_fixed_question() -> None:
    with pytest.raises(ValueError, match="task 'chat' has no fixed question: the records bring their own"):
        Chat(ChatConfig()).question("ja")
