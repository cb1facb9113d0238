from __future__ import annotations

from random import Random
from typing import Any

import pytest

from kikimimi import BankConfig
from kikimimi.contracts.conversation import AudioPart, TextPart
from kikimimi.contracts.registry import load
from kikimimi_tasks.labels import ASR

RECORD = {"text": "明日は晴れです。", "language": "ja", "meta": {"speaker": "1"}}


def _user(task: ASR, record: dict[str, Any] | None = None, rng: Random | None = None) -> tuple[Any, ...]:
    return task.conversation(record or RECORD, ["0.flac"], rng).messages[0].parts


def test_is_registered() -> None:
    assert load("task", "asr") is ASR


def test_a_labelled_clip_becomes_a_request_and_a_transcript() -> None:
    conversation = ASR(BankConfig()).conversation(RECORD, ["0.flac"], None)
    user, assistant = conversation.messages
    assert (user.role, assistant.role) == ("user", "assistant")
    assert user.parts == (AudioPart("0.flac", "明日は晴れです。"), TextPart("音声を書き起こしてください。"))
    assert assistant.parts == (TextPart("明日は晴れです。"),)
    assert conversation.meta == {"speaker": "1"}
    assert conversation.reference() == "明日は晴れです。"
    assert conversation.transcripts() == ["明日は晴れです。"]


def test_language_order_and_prompt() -> None:
    audio = AudioPart("0.flac", "明日は晴れです。")
    english = {**RECORD, "language": "en"}
    assert _user(ASR(BankConfig()), english) == (audio, TextPart("Transcribe the audio."))
    assert _user(ASR(BankConfig(language="en"))) == (audio, TextPart("Transcribe the audio."))
    assert _user(ASR(BankConfig(order="text_first"))) == (TextPart("音声を書き起こしてください。"), audio)
    assert _user(ASR(BankConfig(prompt="none")), {"text": "はい"}) == (AudioPart("0.flac", "はい"),)


def test_rng_chooses_among_the_phrasings() -> None:
    task = ASR(BankConfig())
    asked = {_user(task, rng=Random(seed))[1].text for seed in range(200)}
    assert len(asked) >= 5
    assert asked == set(ASR(BankConfig(language="ja")).phrasings())
    assert _user(task, rng=Random(7)) == _user(task, rng=Random(7))


def test_phrasings_are_all_that_may_be_asked() -> None:
    both = ASR(BankConfig()).phrasings()
    english = ASR(BankConfig(language="en")).phrasings()
    assert len(english) >= 5
    assert set(english) < set(both)
    assert len(set(both)) == len(both)
    assert ASR(BankConfig(prompt="none")).phrasings() == []


def test_question_is_the_first_phrasing() -> None:
    task = ASR(BankConfig())
    assert task.question("en").messages[0].parts == (AudioPart("0"), TextPart("Transcribe the audio."))
    assert task.question(None) == task.question("ja")
    assert task.question("ja").messages[0].parts[1] == TextPart("音声を書き起こしてください。")
    assert ASR(BankConfig(language="en")).question(None) == task.question("en")
    assert ASR(BankConfig(prompt="none")).question("fr").clips() == ["0"]
    with pytest.raises(ValueError, match="language: task 'asr' has no prompts in 'fr', only in en, ja"):
        task.question("fr")


@pytest.mark.parametrize(
    ("record", "clips", "message"),
    [
        ({"messages": []}, ["0.flac"], "messages: task 'asr' makes the turns itself; .* use task 'chat'"),
        ({"language": "ja"}, ["0.flac"], "text: task 'asr' needs the transcript"),
        ({"text": " ", "language": "ja"}, ["0.flac"], "text: task 'asr' needs the transcript"),
        ({"text": "x"}, ["0.flac"], "language: the record has none; give it there, or set task 'asr' to one"),
        (
            {"text": "x", "language": "fr"},
            ["0.flac"],
            "has no prompts in 'fr', only in en, ja; set",
        ),
        ({"text": "x", "language": "ja", "meta": 1}, ["0.flac"], "meta: expected a mapping"),
        (RECORD, [], "needs exactly one clip; the record has 0"),
        (RECORD, ["0.flac", "1.flac"], r"needs exactly one clip; the record has 2: 0\.flac, 1\.flac"),
    ],
)
def test_refuses_records(record: dict[str, Any], clips: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ASR(BankConfig()).conversation(record, clips, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "jp"}, r"language: 'jp' is not one of auto, en, ja\."),
        ({"order": "audio-first"}, r"order: .* Did you mean 'audio_first'\?"),
        ({"prompt": "off"}, "prompt: 'off' is not one of bank, none"),
        (
            {"prompt": "none", "language": "ja"},
            "language: says how the request is put, but prompt is 'none': leave it out",
        ),
        ({"prompt": "none", "order": "text_first"}, "order: .*: leave it out"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BankConfig(**options)


def test_a_request_of_ones_own() -> None:
    task = ASR(BankConfig(request="what did the speaker say?", order="text_first"))
    audio = AudioPart("0.flac", "はい")
    for rng in (None, Random(3)):
        assert _user(task, {"text": "はい"}, rng) == (TextPart("what did the speaker say?"), audio)
    assert task.phrasings() == ["what did the speaker say?"]
    assert task.question("xx").messages[0].parts[0] == TextPart("what did the speaker say?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"request": "x", "prompt": "none"}, "request: stands in place of prompt and language"),
        ({"request": "x", "language": "ja"}, "request: stands in place of prompt and language"),
        ({"request": " "}, "request: is empty; for audio alone set prompt to none"),
    ],
)
def test_a_request_goes_with_nothing_else(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BankConfig(**options)
