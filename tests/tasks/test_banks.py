"""The prompt banks: enough phrasings, the right ones first, and what the tasks that draw from them share."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

import kikimimi_tasks
from kikimimi import BankConfig, BankTask, PromptBank, read_prompt_bank
from kikimimi.contracts import registry
from kikimimi.contracts.conversation import AudioPart, Message, TextPart
from kikimimi.errors import DamagedError
from kikimimi.testing import parametrize_checks
from kikimimi_tasks.labels import Emotion
from kikimimi_tasks.questions import QuestionAnswering, QuestionAnsweringConfig
from kikimimi_tasks.translate import Translate, TranslationConfig, language_names

FOLDER = Path(kikimimi_tasks.__file__).parent / "prompts"
BANKS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
TASKS = [name for name in registry.names("task") if issubclass(registry.load("task", name), BankTask)]
BLANKS = {"translate": {"{target}"}, "translate_cot": {"{target}", "{separator}"}}
RECORD = {"text": "やった。", "language": "ja", "meta": {"emotion": "喜び"}}


def bank(name: str) -> PromptBank:
    return read_prompt_bank(FOLDER / f"{name}.yaml")


def test_every_bank_has_its_task() -> None:
    assert len(BANKS) >= 12
    assert sorted(registry.load("task", name).name for name in TASKS) == BANKS


@pytest.mark.parametrize("name", BANKS)
def test_a_bank_has_phrasings_enough_in_each_language(name: str) -> None:
    requests = bank(name)
    assert list(requests) == ["ja", "en"]
    for language, texts in requests.items():
        assert len(set(texts)) == len(texts) >= 15
        for text in texts:
            assert text == text.strip()
            assert re.search("[ぁ-んァ-ヶ一-龠]" if language == "ja" else "^[A-Z]", text)
            assert language == "ja" or text.isascii()
            assert text.endswith(("。", ".", "?"))
            assert set(re.findall(r"\{\w*\}", text)) == BLANKS.get(name, set())


@pytest.mark.parametrize(
    ("name", "language", "first"),
    [
        ("asr", "ja", "音声を書き起こしてください。"),
        ("asr", "en", "Transcribe the audio."),
        ("caption", "ja", "音声を説明してください。"),
        ("caption", "en", "Please describe the audio."),
        (
            "spoken_instruction",
            "ja",
            "これはタスクを説明する音声の指示です。要求を適切に満たす応答を書きなさい。",
        ),
        ("translate", "en", "Listen to the speech and translate it into {target}."),
        (
            "translate_cot",
            "en",
            "Transcribe the audio to text, and then translate the audio to {target}. Use {separator} as a "
            "separator between the original transcript and the translation.",
        ),
        ("audio_events", "en", "Please list each event in the audio in order."),
        ("speakers", "en", "How many speakers did you hear in this audio? Who are they?"),
        ("emotion", "en", "Describe the emotion of the speaker."),
        ("question_answering", "en", "Please answer the question in detail."),
        ("music_title", "en", "Give me a title of the music based on its rhythm and emotion."),
    ],
)
def test_the_first_is_the_reference_systems(name: str, language: str, first: str) -> None:
    assert bank(name)[language][0] == first


def test_salmonns_request_for_a_transcript_is_in_the_bank() -> None:
    assert "Recognize the speech and give me the transcription." in bank("asr")["en"]


def test_languages_have_names_in_every_prompts_language() -> None:
    names = language_names()
    assert list(names) == ["ja", "en"]
    assert list(names["ja"]) == list(names["en"])
    assert len(names["en"]) > 40
    for of in names.values():
        assert len(set(of.values())) == len(of)
    assert (names["ja"]["no"], names["en"]["no"]) == ("ノルウェー語", "Norwegian")


@pytest.mark.parametrize("name", TASKS)
def test_every_phrasing_is_drawn_and_none_without_a_draw(name: str) -> None:
    from kikimimi.testing.records import labelled_clip

    task = registry.load("task", name)
    component = task(task.Config(language="en"))
    record = labelled_clip(Random(0))
    asked = {
        component.conversation(record, ["0.flac"], Random(seed)).messages[0].parts[1].text
        for seed in range(300)
    }
    assert len(asked) == len(bank(task.name)["en"])
    assert component.conversation(record, ["0.flac"], None).messages[0].parts[1].text in asked


def _turns(options: dict[str, Any], record: dict[str, Any] | None = None) -> list[Message]:
    return list(Emotion(BankConfig(**options)).conversation(record or RECORD, ["0.flac"], None).messages)


def test_where_the_request_stands() -> None:
    audio, asked = AudioPart("0.flac", "やった。"), TextPart("話者の感情を答えてください。")
    answer = Message("assistant", (TextPart("喜び"),))
    assert _turns({}) == [Message("user", (audio, asked)), answer]
    assert _turns({"order": "text_first"}) == [Message("user", (asked, audio)), answer]
    assert _turns({"ask": "system"}) == [Message("system", (asked,)), Message("user", (audio,)), answer]
    assert _turns({"prompt": "none"}) == [Message("user", (audio,)), answer]
    system = Message("system", (TextPart("一語で。"),))
    assert _turns({"system": "一語で。"}) == [system, Message("user", (audio, asked)), answer]
    assert _turns({"system": "一語で。", "prompt": "none"}) == [system, Message("user", (audio,)), answer]
    own = Message("system", (TextPart("Emotion?"),))
    assert _turns({"ask": "system", "request": "Emotion?"}) == [own, Message("user", (audio,)), answer]


def test_the_question_stands_as_in_training() -> None:
    task = Emotion(BankConfig(ask="system", language="en"))
    system, user = task.question(None).messages
    assert system.parts == (TextPart("Describe the emotion of the speaker."),)
    assert user.parts == (AudioPart("0"),)
    assert task.phrasings() == bank("emotion")["en"]
    assert Emotion(BankConfig(system="一語で。", request="感情は。")).phrasings() == [
        "一語で。",
        "感情は。",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "audio"}, r"order: 'audio' is not one of audio_first, text_first"),
        ({"ask": "assistant"}, "ask: 'assistant' is not one of system, user"),
        ({"system": " "}, "system: must not be blank; null is allowed"),
        ({"ask": "system", "system": "x"}, r"system: the request is the system turn \(ask: system\)"),
        ({"ask": "system", "order": "text_first"}, "order: the audio is alone in the user's turn"),
        ({"prompt": "none", "ask": "system"}, "ask: says how the request is put, but prompt is 'none'"),
        (
            {"prompt": "none", "order": "text_first"},
            "order: says how the request is put, but prompt is 'none'",
        ),
        ({"prompt": "none", "language": "en"}, "language: says how the request is put, but prompt is 'none'"),
    ],
)
def test_settings_that_would_not_be_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BankConfig(**options)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"text": "x", "language": "ja", "meta": {"source": "y"}},
            r"emotion: task 'emotion' needs the speaker's emotion; the record has language, meta\.source, t",
        ),
        ({"emotion": 3, "language": "ja"}, "emotion: expected a text that is not empty, not 3"),
        (
            {"emotion": "x" * 99, "text": [1]},
            r"language: the record has none; give it there, or set task 'emo",
        ),
        ({"emotion": "x", "language": "ja", "text": [1]}, r"text: expected a text .* not \[1\]"),
        ({"emotion": "x", "language": 3}, "language: expected a text that is not empty, not 3"),
        (
            {"emotion": "x", "language": "fr"},
            "language: task 'emotion' has no prompts in 'fr', only in en, ja",
        ),
        ({"emotion": "x", "meta": []}, "language: the record has none"),
        ({"emotion": "x", "meta": [1]}, "meta: expected a mapping"),
    ],
)
def test_records_that_lack_something(record: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Emotion(BankConfig()).conversation(record, ["0.flac"], None)


def test_a_clip_whose_words_are_not_known() -> None:
    user, _ = _turns({}, {"emotion": "怒り", "language": "ja"})
    assert user.parts[0] == AudioPart("0.flac", None)


@parametrize_checks(
    Translate,
    system=TranslationConfig(ask="system", target="ja", language="en"),
    none=TranslationConfig(prompt="none", system="x"),
    own=TranslationConfig(request="英語で。", order="text_first"),
)
def test_contract_of_translate(check: Any) -> None:
    check()


@parametrize_checks(
    QuestionAnswering,
    none=QuestionAnsweringConfig(prompt="none", order="text_first"),
    system=QuestionAnsweringConfig(ask="system", order="text_first"),
    own=QuestionAnsweringConfig(request="答えて。", system="x"),
)
def test_contract_of_question_answering(check: Any) -> None:
    check()


TASK = """
from random import Random
from kikimimi import BankConfig, BankTask, LabelledClip

class {name}(BankTask[BankConfig]):
    name = "stress"
    Config = BankConfig

    def answer(self, clip: LabelledClip, rng: Random | None) -> str:
        return clip.text("word", what="the stressed word")
"""


def module(folder: Path, name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(folder))
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name)


def test_a_bank_lies_beside_the_module_that_names_its_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "stress.yaml").write_text("en: [Which word is stressed?, Which one?]\n")
    cls = module(tmp_path, "of_a_third_party", TASK.format(name="Stress"), monkeypatch).Stress
    task = cls(BankConfig(language="en", system="In a word."))
    assert task.phrasings() == ["In a word.", "Which word is stressed?", "Which one?"]
    spoken = task.conversation({"word": "never"}, ["0.flac"], None)
    assert spoken.messages[1].parts[1] == TextPart("Which word is stressed?")
    source = "from kikimimi_tasks.labels import Emotion\n\nclass Mood(Emotion):\n    pass\n"
    derived = module(tmp_path, "of_another", source, monkeypatch).Mood(BankConfig())
    assert derived.bank() == bank("emotion")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- What?", "expected languages with their requests"),
        ("{}", "expected languages with their requests"),
        ("en: What?", "en: expected a list of requests"),
        ("{en: [What?], ja: []}", "ja: expected a list of requests"),
        ("en: [What?, ' ']", "en: expected a list of requests"),
        ("1: [What?]", "1: expected a list of requests"),
        ("en: [", "not YAML|line 1"),
    ],
)
def test_a_bank_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bank.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DamagedError, match=f"{path}: .*({message})"):
        read_prompt_bank(path)


def test_a_bank_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=r"none\.yaml"):
        read_prompt_bank(tmp_path / "none.yaml")
