from __future__ import annotations

from random import Random
from typing import Any

import pytest

from kikimimi.contracts.conversation import AudioPart, Message, TextPart
from kikimimi.testing import parametrize_checks
from kikimimi_tasks.prompted import Prompted, PromptedConfig

PROMPTS = {"ja": ["{place}の方言ですか。", "どこの方言ですか。"], "en": ["Which dialect of {place}?"]}
RECORD: dict[str, Any] = {
    "text": "んだ。",
    "language": "ja",
    "speaker": {"age": 61, "names": ["佐藤", "太郎"]},
    "meta": {"dialect": "津軽弁", "place": "青森"},
}


def _make(record: dict[str, Any] | None = None, rng: Random | None = None, **options: Any) -> Any:
    return Prompted(PromptedConfig(**options)).conversation(record or RECORD, ["0.flac"], rng)


def test_requests_and_answer_are_filled_in() -> None:
    made = _make(prompts=PROMPTS, answer="{dialect} ({speaker.age}): {speaker.names} {{{meta.place}}}")
    assert made.messages == (
        Message("user", (AudioPart("0.flac", "んだ。"), TextPart("青森の方言ですか。"))),
        Message("assistant", (TextPart("津軽弁 (61): 佐藤, 太郎 {青森}"),)),
    )
    english = _make(prompts=PROMPTS, language="en", order="text_first")
    assert english.messages[0].parts[0] == TextPart("Which dialect of 青森?")
    assert english.reference() == "んだ。"
    asked = {_make(prompts=PROMPTS, rng=Random(s)).messages[0].parts[1].text for s in range(30)}
    assert asked == {"青森の方言ですか。", "どこの方言ですか。"}
    listed = _make(answer="{speaker.names}", separator="・")
    assert listed.reference() == "佐藤・太郎"
    assert listed.messages[0].parts == (AudioPart("0.flac", "んだ。"),)


def test_what_is_said() -> None:
    assert _make(answer="x", transcript=None).transcripts() == [None]
    assert _make(answer="x", transcript="dialect").transcripts() == ["津軽弁"]
    assert _make(answer="x", transcript="kana").transcripts() == [None]


def test_a_system_turn() -> None:
    system, user, _ = _make(prompts=PROMPTS, ask="system").messages
    assert system == Message("system", (TextPart("青森の方言ですか。"),))
    assert user.parts == (AudioPart("0.flac", "んだ。"),)


def test_the_fixed_question_has_no_blanks() -> None:
    fixed = Prompted(PromptedConfig(prompts={"ja": ["方言は{{何}}ですか。"]}))
    assert fixed.question(None).messages[0].parts[1] == TextPart("方言は{何}ですか。")
    with pytest.raises(ValueError, match="language: task 'prompted' has no prompts in 'en', only in ja"):
        fixed.question("en")
    with pytest.raises(ValueError, match="task 'prompted' has no fixed question: its request has blanks"):
        Prompted(PromptedConfig(prompts=PROMPTS)).question("ja")
    assert Prompted(PromptedConfig()).question("xx").messages[0].parts == (AudioPart("0"),)


def test_phrasings_are_the_fixed_parts() -> None:
    task = Prompted(PromptedConfig(prompts=PROMPTS, answer="方言: {dialect}", language="ja", system="s"))
    assert task.phrasings() == ["s", "の方言ですか。", "どこの方言ですか。", "方言: ", ", "]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("{accent}", r"accent: task 'prompted' needs this field; the record has language, meta\.dialect, "),
        ("{dialect.name}", r"dialect\.name: task 'prompted' needs this field"),
        ("{speaker}", "speaker: expected a text that is not empty, not {'age': 61"),
        ("{meta}", "meta: expected a text that is not empty"),
        ("{speaker.names.0}", r"speaker\.names\.0: task 'prompted' needs this field"),
    ],
)
def test_fields_that_are_not_there(answer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _make(answer=answer)


@pytest.mark.parametrize(
    "blank",
    [
        "{}",
        "{a.}",
        "{.a}",
        "{a!r}",
        "{a:>9}",
        "{a[0]}",
        "{a b}",
        "{",
        "}",
        "{a",
        "a}",
        "{{a}",
        "{a.__class__()}",
    ],
)
def test_a_template_reads_fields_and_nothing_else(blank: str) -> None:
    with pytest.raises(ValueError, match=r"^answer: .* is no blank: write \{field\} or \{field\.sub\}"):
        PromptedConfig(answer=blank)


def test_attributes_are_out_of_reach() -> None:
    with pytest.raises(ValueError, match=r"text\.__class__: task 'prompted' needs this field"):
        _make(answer="{text.__class__}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": {"ja": []}}, "prompts.ja: must not be empty"),
        ({"prompts": {"ja": ["x", " "]}}, r"prompts\.ja\[1\]: must not be blank"),
        ({"prompts": {"ja": ["x", "x"]}}, "prompts.ja: must be without repeats, not "),
        ({"prompts": {"ja": ["{"]}}, "prompts.ja: '{' is no blank"),
        ({"prompts": PROMPTS, "language": "fr"}, "language: 'fr' is not one of auto, en, ja"),
        ({"language": "ja"}, "language: says how the request is put, but prompts is empty: leave it out"),
        ({"order": "text_first"}, "order: says how the request is put, but prompts is empty"),
        ({"answer": " "}, "answer: must not be blank"),
        ({"transcript": ""}, "transcript: must not be blank; null is allowed"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptedConfig(**options)


@parametrize_checks(
    Prompted,
    filled=PromptedConfig(
        prompts={"ja": ["{title}の{keywords}は。", "感情は。"]}, answer="{emotion}: {translation.en}"
    ),
    system=PromptedConfig(prompts={"ja": ["感情は。"]}, answer="{emotion}", ask="system", transcript=None),
)
def test_contract(check: Any) -> None:
    check()


@pytest.mark.parametrize(("options", "written"), [({}, "Go on.\nhi"), ({"joint": " "}, "Go on. hi")])
def test_what_stands_before_the_transcript_in_writing(options: dict[str, Any], written: str) -> None:
    """A teacher that reads in place of hearing: BLSP puts a blank there."""
    config = PromptedConfig(prompts={"en": ["Go on."]}, language="en", order="text_first", **options)
    made = Prompted(config).conversation({"text": "hi"}, ["0.flac"], None)
    assert made.messages[0].parts[0] == TextPart("Go on.")
    assert made.written().messages[0].parts == (TextPart(written),)
