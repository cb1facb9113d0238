from __future__ import annotations

from typing import Any

import pytest

from kikimimi.conversation import AudioPart, TextPart
from kikimimi.plugins import load
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
