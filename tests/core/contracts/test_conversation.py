from __future__ import annotations

from typing import Any

import pytest

from kikimimi.contracts.conversation import AudioPart, Message, TextPart, clip_mark, parse_conversation

USER = {"role": "user", "content": [{"type": "audio", "audio": "0.flac", "text": "調子はどう。"}]}
ANSWER = {"role": "assistant", "content": "元気です。"}


def test_turns_spoken_and_written_in_any_order() -> None:
    mixed = [
        {"type": "text", "text": "この二つを比べて。"},
        {"type": "audio", "audio": "1.flac"},
        {"type": "audio", "audio": "0.flac", "text": None},
    ]
    conversation = parse_conversation(
        {
            "messages": [
                {"role": "system", "content": "簡潔に。"},
                USER,
                ANSWER,
                {"role": "user", "content": mixed},
                {
                    "role": "assistant",
                    "content": [{"type": "text", "text": "同じ"}, {"type": "text", "text": "です。"}],
                },
            ],
            "meta": {"license": "CC0-1.0"},
        }
    )
    assert [message.role for message in conversation.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert conversation.messages[1].parts == (AudioPart("0.flac", "調子はどう。"),)
    assert conversation.messages[3].parts == (
        TextPart("この二つを比べて。"),
        AudioPart("1.flac"),
        AudioPart("0.flac"),
    )
    assert conversation.clips() == ["0.flac", "1.flac", "0.flac"]
    assert conversation.transcripts() == ["調子はどう。", None, None]
    assert conversation.reference() == "同じです。"
    assert conversation.prompt().messages == conversation.messages[:4]
    assert conversation.rejected is None


def test_text_alone() -> None:
    conversation = parse_conversation({"messages": [{"role": "user", "content": "はい"}, ANSWER]})
    assert conversation.clips() == []
    assert conversation.reference() == "元気です。"


def test_chosen_becomes_the_last_answer() -> None:
    pair = parse_conversation({"messages": [USER], "chosen": "元気です。", "rejected": "知りません。"})
    assert pair == parse_conversation({"messages": [USER, ANSWER], "rejected": "知りません。"})
    assert pair.messages[-1] == Message("assistant", (TextPart("元気です。"),))
    assert (pair.reference(), pair.rejected) == ("元気です。", "知りません。")
    assert pair.prompt().messages == (Message("user", (AudioPart("0.flac", "調子はどう。"),)),)
    assert pair.prompt().rejected is None
    alone = parse_conversation({"messages": [USER, ANSWER, USER], "chosen": "眠いです。"})
    assert (alone.reference(), alone.rejected, len(alone.messages)) == ("眠いです。", None, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"messages": [USER, ANSWER], "chosen": "はい"}, "chosen: the last turn is an answer already"),
        ({"messages": [USER], "chosen": " "}, "chosen: expected a text that is not empty, or null"),
        ({"messages": [USER], "chosen": ["はい"]}, "chosen: expected a text that is not empty, or null"),
        ({"messages": [USER, ANSWER], "rejected": ""}, "rejected: expected a text that is not empty"),
        ({"messages": [USER], "rejected": "いいえ"}, "rejected: there is no answer to prefer to it"),
        (
            {"messages": [USER], "chosen": "はい", "rejected": "はい"},
            "rejected: is the same text as the answer that is preferred",
        ),
        ({"messages": [USER, ANSWER], "rejected": "元気です。"}, "rejected: is the same text as"),
        ({"messages": []}, "messages: expected a list of at least one turn"),
        ({"messages": [USER], "meta": 3}, "meta: expected a mapping"),
        ({"messages": ["x"]}, r"messages\[0\]: expected a mapping with role and content"),
        ({"messages": [{"role": "bot"}]}, r"messages\[0\]\.role: 'bot' is not one of system, user, assist"),
        ({"messages": [{"role": "user", "content": []}]}, r"messages\[0\]\.content: expected a text or a"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, r"content\[0\]: expected a mapping with a type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            r"messages\[0\]\.content\[0\]\.type: 'video' is not one of audio, text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio", "audio": ""}]}]},
            r"messages\[0\]\.content\[0\]\.audio: expected a text",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "0", "text": 1}]}]},
            r"content\[0\]\.text: expected what is said in the clip",
        ),
    ],
)
def test_refuses(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_conversation(data)


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("<audio>どこ", "<audio>"),
        ("どこ <Audio>", "<Audio>"),
        ("<|audio_bos|><|AUDIO|><|audio_eos|>", "<|audio_bos|>"),
        ("<|audio_1|>", "<|audio_1|>"),
        ("<audio_soft_token>", "<audio_soft_token>"),
        ("<audio 2>", "<audio 2>"),
        ("<speech>", "<speech>"),
        ("<SpeechHere>", "<SpeechHere>"),
        ("<|speech_1|>", "<|speech_1|>"),
        ("<|startofaudio|>x", "<|startofaudio|>"),
        ("<start_of_audio>x", "<start_of_audio>"),
        ("<|startoftranscript|>", None),
        ("どこ", None),
        ("the audio > the video", None),
        ('<audio controls src="a.mp3"></audio>', None),
        ("<audiobook>", None),
    ],
)
def test_marks_of_clips(text: str, mark: str | None) -> None:
    assert clip_mark(text) == mark
