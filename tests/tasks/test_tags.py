from __future__ import annotations

from typing import Any, get_args

import pytest

from kikimimi.contracts.conversation import AudioPart, Conversation
from kikimimi.testing import parametrize_checks
from kikimimi_tasks.tags import TagKind, Tags, TagsConfig

RECORD: dict[str, Any] = {
    "text": "good morning",
    "language": "en",
    "translation": {"de": "Guten Morgen"},
    "captions": ["birds sing"],
    "keywords": ["morning", "greeting"],
    "emotion": "calm",
    "events": ["birds", "speech"],
    "speakers": "Smith",
    "title": "Morning",
    "scene": "park",
    "vocal_sound": "laughter",
    "segments": [
        {"text": "good", "start": 0.0, "end": 0.4},
        {"text": "morning", "start": 0.4, "end": 1},
        {"text": "all", "start": 1.25, "end": 1.5},
    ],
}


def _make(record: dict[str, Any] | None = None, **options: Any) -> Conversation:
    return Tags(TagsConfig(**options)).conversation(RECORD if record is None else record, ["0.flac"], None)


@pytest.mark.parametrize(
    ("options", "tags", "answer", "said"),
    [
        # Sequences of Qwen-Audio's own evaluations: evaluate_asr, st, caption, emotion, scene, srwt.
        (
            {},
            "<|startoftranscript|><|en|><|transcribe|><|en|><|notimestamps|><|wo_itn|>",
            "good morning",
            True,
        ),
        (
            {"kind": "translate", "target": "de"},
            "<|startoftranscript|><|en|><|translate|><|de|><|notimestamps|><|itn|>",
            "Guten Morgen",
            True,
        ),
        (
            {"kind": "caption", "form": "caption_clotho"},
            "<|startofanalysis|><|unknown|><|caption|><|en|><|notimestamps|><|caption_clotho|>",
            "birds sing",
            False,
        ),
        (
            {"kind": "keyword", "target": "ja"},
            "<|startofanalysis|><|en|><|keyword|><|ja|><|notimestamps|>",
            "morning, greeting",
            True,
        ),
        (
            {"kind": "emotion_recognition"},
            "<|startofanalysis|><|en|><|keyword|><|en|><|notimestamps|><|emotion_recognition|>",
            "calm",
            True,
        ),
        (
            {"kind": "event"},
            "<|startofanalysis|><|unknown|><|keyword|><|en|><|notimestamps|><|event|>",
            "birds, speech",
            False,
        ),
        (
            {"kind": "speaker_meta"},
            "<|startofanalysis|><|en|><|keyword|><|en|><|notimestamps|><|speaker_meta|>",
            "Smith",
            True,
        ),
        (
            {"kind": "song_meta"},
            "<|startofanalysis|><|unknown|><|keyword|><|en|><|notimestamps|><|song_meta|>",
            "Morning",
            False,
        ),
        (
            {"kind": "scene"},
            "<|startofanalysis|><|unknown|><|keyword|><|en|><|notimestamps|><|scene|>",
            "park",
            False,
        ),
        (
            {"form": "itn"},
            "<|startoftranscript|><|en|><|transcribe|><|en|><|notimestamps|><|itn|>",
            "good morning",
            True,
        ),
        (
            {"timestamps": True},
            "<|startoftranscript|><|en|><|transcribe|><|en|><|timestamps|>",
            "<|0.00|>good<|0.40|>morning<|1.00|><|1.25|>all<|1.50|>",
            True,
        ),
    ],
)
def test_the_sequence_and_the_answer(options: dict[str, Any], tags: str, answer: str, said: bool) -> None:
    conversation = _make(**options)
    audio, asked = conversation.messages[0].parts
    assert audio == AudioPart("0.flac", "good morning" if said else None)
    assert asked.text == tags
    assert conversation.reference() == answer


def test_the_language_of_the_clip_may_be_unknown() -> None:
    made = _make({"text": "x"}, target="en")
    assert made.messages[0].parts[1].text == (
        "<|startoftranscript|><|unknown|><|transcribe|><|en|><|notimestamps|><|wo_itn|>"
    )
    question = Tags(TagsConfig()).question("ja").messages[0].parts[1].text
    assert question == "<|startoftranscript|><|ja|><|transcribe|><|ja|><|notimestamps|><|wo_itn|>"
    with pytest.raises(
        ValueError, match="language: the record has none; give it there, or set option 'target'"
    ):
        _make({"text": "x"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "translate"}, "target: must be given where kind is 'translate'"),
        ({"kind": "transcrbe"}, r"kind: 'transcrbe' is not one of .* Did you mean 'transcribe'\?"),
        ({"target": "english"}, "target: 'english' is not one of ar, "),
        ({"kind": "caption", "timestamps": True}, "timestamps: only a transcript has them"),
        (
            {"kind": "caption", "form": "itn"},
            "form: kind 'caption' takes caption_audiocaps, caption_clotho, caption_plain",
        ),
        ({"kind": "event", "form": "itn"}, "form: kind 'event' takes none: leave it out"),
        ({"timestamps": True, "form": "itn"}, "form: a transcript with times takes none: leave it out"),
    ],
)
def test_refuses_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TagsConfig(**options)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([{"text": "a"}], r"segments\[0\]: task 'tags' needs start and end \(timestamps: true\)"),
        ([{"text": "a", "start": 2, "end": 1}], r"segments\[0\]: begins at 2\.0 s and ends at 1\.0 s"),
        (
            [{"text": "a", "start": 0, "end": 2}, {"text": "b", "start": 1, "end": 3}],
            r"segments\[1\]: begins at 1\.0 s .* segments follow each other in time",
        ),
        (None, "segments: task 'tags' needs a list of segments"),
    ],
)
def test_times_that_cannot_be_written(segments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _make({**RECORD, "segments": segments}, timestamps=True)


@parametrize_checks(
    Tags,
    timed=TagsConfig(timestamps=True),
    expected_failures=None,
    **{str(kind): TagsConfig(kind=kind, target="en") for kind in get_args(TagKind)},
)
def test_contract(check: Any) -> None:
    check()
