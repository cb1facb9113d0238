"""Documents of segments: repetition and continuation."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from kikimimi.contracts.conversation import AudioPart, Conversation, Message, TextPart
from kikimimi_tasks.documents import Continuation, ContinuationConfig, Repetition, RepetitionConfig

CLIPS = ["0.flac", "1.flac", "2.flac"]


def _document(count: int, **more: Any) -> dict[str, Any]:
    segments = [{"audio": f"{i}.flac", "text": f"文{i}。"} for i in range(count)]
    return {"segments": segments, "meta": {"license": "CC0-1.0"}, **more}


def _continue(record: dict[str, Any], clips: list[str] | None = None) -> Conversation:
    return Continuation(ContinuationConfig()).conversation(record, CLIPS if clips is None else clips, None)


def _repeat(record: dict[str, Any], clips: list[str] | None = None) -> Conversation:
    return Repetition(RepetitionConfig()).conversation(record, CLIPS if clips is None else clips, None)


def _user(number: int, mark: str) -> Message:
    return Message("user", (AudioPart(f"{number}.flac", f"文{number}。"), TextPart(mark)))


def _assistant(text: str) -> Message:
    return Message("assistant", (TextPart(text),))


def test_heard_and_written_in_turn() -> None:
    found = _continue(_document(4), ["0.flac", "1.flac", "2.flac", "3.flac"])
    assert found.messages == (
        _user(0, "<next>"),
        _assistant("文1。"),
        _user(2, "<next>"),
        _assistant("文3。"),
    )
    assert found.meta == {"license": "CC0-1.0"}


def test_the_last_of_an_odd_number_is_written_too() -> None:
    assert _continue(_document(3)).messages == (_user(0, "<next>"), _assistant("文1。\n文2。"))


def test_what_is_only_written_needs_no_clip() -> None:
    record = {"segments": [{"audio": "0", "text": "文0。"}, {"text": "文1。"}]}
    assert _continue(record, ["0.flac"]).messages == (_user(0, "<next>"), _assistant("文1。"))
    record = {"segments": record["segments"][::-1]}
    with pytest.raises(ValueError, match=r"segments\[0\]\.audio: task 'repetition' needs the name of"):
        _repeat(record, ["0.flac"])


def test_audio_and_its_own_text() -> None:
    """One pair for each sample, without those before it."""
    assert _repeat(_document(2)).messages == (_user(0, "<repeat>"), _assistant("文0。"))
    task = Repetition(RepetitionConfig())
    drawn = {task.conversation(_document(3), CLIPS, Random(seed)).messages for seed in range(20)}
    assert drawn == {(_user(i, "<repeat>"), _assistant(f"文{i}。")) for i in range(3)}
    clip = _repeat({"text": "文0。"}, ["0.flac"])
    assert clip.messages == (_user(0, "<repeat>"), _assistant("文0。"))


def test_marks_of_ones_own() -> None:
    task = Continuation(ContinuationConfig(mark="続き:"))
    assert task.question(None).messages == (Message("user", (AudioPart("0"), TextPart("続き:"))),)
    assert task.phrasings() == ["続き:", "\n"]
    assert Repetition(RepetitionConfig(mark="同じ:")).phrasings() == ["同じ:"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "x"}, "segments: task 'continuation' needs a list of segments; the record has text"),
        ({"segments": "x"}, "segments: expected a list of at least one segment"),
        ({"segments": []}, "segments: expected a list of at least one segment"),
        (_document(1), "segments: task 'continuation' needs at least two; the record has 1"),
        ({"segments": ["x", "y"]}, r"segments\[0\]: expected a mapping with text and audio"),
        ({"segments": [{"audio": "0.flac"}]}, r"segments\[0\]\.text: expected a text that is not empty"),
        (
            {"segments": [{"audio": "0.flacc", "text": "x"}]},
            r"segments\[0\]\.audio: the record has no clip '0\.flacc'\. Did you mean '0\.flac'\? Clips: 0\.f",
        ),
        ({"segments": [{"audio": 3, "text": "x"}]}, "the record has no clip 3"),
        ({"segments": [{"text": "x", "start": -1}]}, r"segments\[0\]\.start: expected a number of sec.* -1"),
        ({"segments": [{"text": "x", "end": "1"}]}, r"segments\[0\]\.end: expected a number of sec.* '1'"),
        ({"segments": [{"text": "x", "end": float("nan")}]}, r"end: expected a number of seconds, not nan"),
        (_document(2, messages=[]), "messages: task 'continuation' makes the turns itself"),
        (_document(2, meta=3), "meta: expected a mapping"),
    ],
)
def test_refuses(record: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _continue(record)
