"""What each task about one clip asks, answers and hears, from which fields."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from kikimimi.contracts import registry
from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart

RECORD: dict[str, Any] = {
    "text": "おはよう。",
    "language": "ja",
    "translation": {"en": "Good morning.", "de": "Guten Morgen."},
    "captions": ["鳥が鳴く。", "朝の声。", "人が話す。"],
    "question": "いつの挨拶ですか。",
    "answer": "朝です。",
    "meta": {
        "emotion": "平静",
        "speakers": ["佐藤", "鈴木"],
        "keywords": ["朝", "挨拶"],
        "events": ["鳥", "声"],
        "title": "朝の歌",
    },
}


def _make(
    name: str, record: dict[str, Any] | None = None, rng: Random | None = None, **options: Any
) -> Conversation:
    component = registry.load("task", name)
    task = component(component.Config(**options))
    found: Conversation = task.conversation(RECORD if record is None else record, ["0.flac"], rng)
    return found


@pytest.mark.parametrize(
    ("name", "options", "asked", "answer", "said"),
    [
        ("transcribe", {}, None, "おはよう。", True),
        ("transcribe", {"tag": "[TRANSCRIBE]"}, "[TRANSCRIBE]", "おはよう。", True),
        ("translate", {}, "音声を英語に翻訳してください。", "Good morning.", True),
        (
            "translate",
            {"target": "de", "language": "en"},
            "Listen to the speech and translate it into German.",
            "Guten Morgen.",
            True,
        ),
        (
            "translate_cot",
            {"language": "en", "target": "de"},
            "Transcribe the audio to text, and then translate the audio to German. Use <sep> as a separator "
            "between the original transcript and the translation.",
            "おはよう。 <sep> Guten Morgen.",
            True,
        ),
        (
            "translate_cot",
            {"separator": "///"},
            "音声を書き起こし、続けて英語に翻訳してください。書き起こしと翻訳の間は///で区切ってください。",
            "おはよう。 /// Good morning.",
            True,
        ),
        ("caption", {}, "音声を説明してください。", "鳥が鳴く。", False),
        (
            "spoken_instruction",
            {},
            "これはタスクを説明する音声の指示です。要求を適切に満たす応答を書きなさい。",
            "朝です。",
            True,
        ),
        ("spoken_instruction", {"prompt": "none"}, None, "朝です。", True),
        (
            "transcribe_then_answer",
            {"language": "en"},
            "Transcribe the spoken instruction, then follow it.",
            "### Transcript:\nおはよう。\n\n### Response:\n朝です。",
            True,
        ),
        (
            "transcribe_then_answer",
            {"request": "x", "transcript_heading": "書き起こし", "response_heading": "応答"},
            "x",
            "書き起こし\nおはよう。\n\n応答\n朝です。",
            True,
        ),
        (
            "question_answering",
            {"language": "en"},
            "Please answer the question in detail.\nいつの挨拶ですか。",
            "朝です。",
            True,
        ),
        ("question_answering", {"prompt": "none"}, "いつの挨拶ですか。", "朝です。", True),
        ("emotion", {}, "話者の感情を答えてください。", "平静", True),
        ("speakers", {}, "この音声では何人が話していますか。それは誰ですか。", "佐藤, 鈴木", True),
        ("keywords", {"separator": "、"}, "音声のキーワードを挙げてください。", "朝、挨拶", True),
        ("audio_events", {}, "音声に含まれる音の出来事を順に挙げてください。", "鳥, 声", False),
        ("music_title", {}, "リズムと雰囲気をもとに、この曲の題名を付けてください。", "朝の歌", False),
        ("repetition", {}, "<repeat>", "おはよう。", True),
    ],
)
def test_what_is_asked_answered_and_heard(
    name: str, options: dict[str, Any], asked: str | None, answer: str, said: bool
) -> None:
    conversation = _make(name, **options)
    audio = AudioPart("0.flac", "おはよう。" if said else None)
    parts = (audio,) if asked is None else (audio, TextPart(asked))
    assert conversation.messages == (
        Message("user", parts),
        Message("assistant", (TextPart(answer),)),
    )
    assert conversation.meta == RECORD["meta"]


def test_a_caption_is_drawn() -> None:
    drawn = {_make("caption", rng=Random(seed)).reference() for seed in range(40)}
    assert drawn == set(RECORD["captions"])
    assert _make("caption", {"caption": "雨。", "text": "x", "language": "ja"}).reference() == "雨。"
    assert _make("caption", {"text": "風。", "language": "ja"}).reference() == "風。"


def test_other_forms_of_fields() -> None:
    assert _make("translate", {**RECORD, "translation": "Morning."}).reference() == "Morning."
    assert _make("speakers", {**RECORD, "speakers": 2}).reference() == "2"
    assert _make("speakers", {**RECORD, "speakers": "佐藤"}).reference() == "佐藤"
    answered = {"response": "はい。", "language": "ja"}
    assert _make("spoken_instruction", answered).transcripts() == [None]
    assert _make("spoken_instruction", answered).reference() == "はい。"


def test_the_question_beside_a_system_turn() -> None:
    system, user, _ = _make("question_answering", ask="system", order="text_first").messages
    assert system.parts == (TextPart("音声を聞いて、次の質問に詳しく答えてください。"),)
    assert user.parts == (TextPart("いつの挨拶ですか。"), AudioPart("0.flac", "おはよう。"))


def test_a_written_question_is_in_the_record_alone() -> None:
    task = registry.load("task", "question_answering")
    with pytest.raises(ValueError, match="task 'question_answering' has no fixed question"):
        task(task.Config()).question("ja")


@pytest.mark.parametrize(
    ("name", "without", "message"),
    [
        ("transcribe", ["text"], "text: task 'transcribe' needs the transcript; the record has answer, "),
        ("translate", ["translation"], "translation: task 'translate' needs the translation into 'en'"),
        ("caption", ["captions", "text"], "captions or caption or text: task 'caption' needs a caption"),
        (
            "spoken_instruction",
            ["answer"],
            "answer or response: task 'spoken_instruction' needs the answer to",
        ),
        ("transcribe_then_answer", ["text"], "text: task 'transcribe_then_answer' needs the transcript"),
        ("question_answering", ["question"], "question: task 'question_answering' needs a written question"),
        (
            "emotion",
            ["meta"],
            "emotion: task 'emotion' needs the speaker's emotion; the record has answer, c",
        ),
        ("speakers", ["meta"], "speakers: task 'speakers' needs the speakers"),
        ("keywords", ["meta"], "keywords: task 'keywords' needs the keywords"),
        ("audio_events", ["meta"], "events: task 'audio_events' needs the sound events"),
        ("music_title", ["meta"], "title: task 'music_title' needs the title of the music"),
        ("repetition", ["text"], "text or segments: task 'repetition' needs a transcript"),
    ],
)
def test_a_field_that_is_not_there(name: str, without: list[str], message: str) -> None:
    record = {key: value for key, value in RECORD.items() if key not in without}
    with pytest.raises(ValueError, match=message):
        _make(name, record)


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("translate", "translation", {"de": "x"}, "translation: .* needs one into 'en'; the record has de"),
        ("translate", "translation", {"en": 3}, r"translation\.en: expected a text that is not empty, not 3"),
        ("translate_cot", "text", "a <sep> b", "text: holds the separator '<sep>'; choose another"),
        ("translate_cot", "translation", "<sep>", "translation: holds the separator '<sep>'"),
        ("keywords", "keywords", ["x", ""], "keywords: expected a text that is not empty, not ''"),
        ("speakers", "speakers", True, "speakers: expected a text that is not empty, not True"),
        ("caption", "captions", {"ja": "x"}, "captions: expected a text that is not empty, not {'ja': 'x'}"),
        ("transcribe", "messages", [], "messages: task 'transcribe' makes the turns itself"),
    ],
)
def test_a_field_that_holds_something_else(name: str, field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _make(name, {**RECORD, field: value})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("translate", {"target": "jp"}, r"target: 'jp' is not one of ar, "),
        ("translate_cot", {"separator": " "}, "separator: must not be blank"),
        ("transcribe", {"tag": " "}, "tag: must not be blank; null is allowed"),
        ("transcribe", {"order": "text_first"}, "order: says how the request is put, but tag is null"),
        ("transcribe_then_answer", {"response_heading": ""}, "response_heading: must not be blank"),
        ("transcribe_then_answer", {"response_heading": "### Transcript:"}, "response_heading: is the trans"),
        ("keywords", {"separator": ""}, "separator: must not be empty"),
        ("question_answering", {"prompt": "none", "language": "en"}, "language: says how the request is put"),
        ("repetition", {"mark": " "}, "mark: must not be blank"),
        ("continuation", {"mark": ""}, "mark: must not be blank"),
    ],
)
def test_refuses_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        registry.load("task", name).Config(**options)


def test_phrasings_hold_what_is_added_to_answers() -> None:
    for name, text in (
        ("transcribe_then_answer", "\n\n### Response:\n"),
        ("translate_cot", " <sep> "),
        ("speakers", ", "),
    ):
        component = registry.load("task", name)
        assert text in component(component.Config()).phrasings()
    assert registry.load("task", "transcribe")(registry.load("task", "transcribe").Config()).phrasings() == []


@pytest.mark.parametrize(
    ("name", "options", "turns"),
    [
        ("asr", {"request": "何。"}, [("user", "何。\n")]),
        ("asr", {"request": "何。", "ask": "system"}, [("system", "何。"), ("user", "")]),
        ("asr", {"prompt": "none"}, [("user", "")]),
        ("asr", {"prompt": "none", "order": "text_first"}, [("user", "")]),
        ("transcribe", {"system": "短く。"}, [("system", "短く。"), ("user", "")]),
        ("translate", {"request": "英語で。"}, [("user", "英語で。\n")]),
    ],
)
def test_words_that_help_stand_after_the_request(
    name: str, options: dict[str, Any], turns: list[tuple[str, str]]
) -> None:
    """A record without them is asked without; `question_in_context` puts others in their place."""
    component = registry.load("task", name)
    task = component(component.Config(context="names", **options))

    def said(given: Conversation) -> list[tuple[str, str]]:
        texts = [
            "".join(p.text for p in turn.parts if isinstance(p, TextPart)) for turn in given.prompt().messages
        ]
        return list(zip([turn.role for turn in given.prompt().messages], texts, strict=True))

    *before, (user, text) = turns
    beside = [*before, (user, f"{text}岩木山")]
    for names in ("岩木山", ["岩木山"]):
        assert said(task.conversation({**RECORD, "names": names}, ["0.flac"], None)) == beside
    two = task.conversation({**RECORD, "meta": {"names": ["岩木山", "津軽"]}}, ["0.flac"], None)
    assert said(two) == [*before, (user, f"{text}岩木山\n津軽")]
    assert said(task.question_in_context("ja", "岩木山")) == beside
    bare = [*before, (user, text.removesuffix("\n"))]
    empty: tuple[object, ...] = (None, "", [])
    for none in empty:
        assert said(task.conversation({**RECORD, "names": none}, ["0.flac"], None)) == bare
    assert said(task.question("ja")) == bare
    assert "\n" in task.phrasings()
    with pytest.raises(ValueError, match="names: expected a text that is not empty, not "):
        task.conversation({**RECORD, "names": {}}, ["0.flac"], None)


def test_who_takes_no_words_says_so() -> None:
    for name in registry.names("task"):
        component = registry.load("task", name)
        with pytest.raises(ValueError, match=r"not trained on words that help to hear \(option 'context'"):
            component(component.Config()).question_in_context("ja", "岩木山")
    asked = registry.load("task", "question_answering")
    with pytest.raises(ValueError, match="has no fixed question"):
        asked(asked.Config(context="names")).question_in_context("ja", "岩木山")
