from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from kikimimi.inference.subtitles import srt, verbose_json, vtt
from kikimimi.inference.transcript import TextSegment, TimedWord, Transcript, join_texts

SEGMENTS = (
    TextSegment(0.0, 1.5, "good morning"),
    TextSegment(1.5, 2.0, " \n "),
    TextSegment(3599.9996, 7325.0405, "今日は"),
)


def test_subrip() -> None:
    assert srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:01,500\ngood morning\n\n2\n01:00:00,000 --> 02:02:05,040\n今日は\n\n"
    )
    assert srt([]) == ""


def test_webvtt() -> None:
    assert vtt(SEGMENTS) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\ngood morning\n\n01:00:00.000 --> 02:02:05.040\n今日は\n\n"
    )
    assert vtt([]) == "WEBVTT\n\n"


@pytest.mark.parametrize(
    ("text", "subrip", "webvtt"),
    [
        ("a\n\n1\n00:00:09,000 --> 00:00:10,000\nb", None, None),
        ("a\r\n \r b\u2028", "a\nb\\u2028", "a\nb\\u2028"),
        ("x < y && <b>z</b>", "x < y && <b>z</b>", "x &lt; y &amp;&amp; &lt;b&gt;z&lt;/b&gt;"),
        ("a\x1b[2Jb", "a\\x1b[2Jb", "a\\x1b[2Jb"),
    ],
)
def test_no_text_ends_its_cue(text: str, subrip: str | None, webvtt: str | None) -> None:
    """What a model writes may look like markup, or like another cue."""
    segment = TextSegment(1.0, 2.0, text)
    cue, shown = srt([segment]), vtt([segment])
    assert cue.count("\n\n") == 1
    assert shown.count("\n\n") == 2
    assert shown.count("-->") == 1
    if subrip is not None:
        assert cue == f"1\n00:00:01,000 --> 00:00:02,000\n{subrip}\n\n"
        assert shown.partition("000\n")[2] == f"{webvtt}\n\n"


@given(st.floats(0, 400_000))
def test_times_are_right_to_the_millisecond(seconds: float) -> None:
    found = re.match(r"1\n(\d\d+):([0-5]\d):([0-5]\d),(\d{3}) -->", srt([TextSegment(seconds, seconds, "a")]))
    assert found is not None
    hours, minutes, whole, milliseconds = map(int, found.groups())
    assert hours * 3600 + minutes * 60 + whole + milliseconds / 1000 == pytest.approx(seconds, abs=6e-4)


def test_verbose_json() -> None:
    words = (TimedWord(0.1, 0.52004, "good"), TimedWord(0.6, 1.4, "morning"))
    transcript = Transcript(
        (TextSegment(0.0, 1.5, "good morning", words), TextSegment(2.0, 3.0, "all")), 3.25
    )
    assert verbose_json(transcript, language="en", words=True) == {
        "task": "transcribe",
        "language": "en",
        "duration": 3.25,
        "text": "good morning all",
        "segments": [
            {"id": 0, "start": 0.0, "end": 1.5, "text": "good morning"},
            {"id": 1, "start": 2.0, "end": 3.0, "text": "all"},
        ],
        "words": [
            {"word": "good", "start": 0.1, "end": 0.52},
            {"word": "morning", "start": 0.6, "end": 1.4},
        ],
    }
    assert "words" not in verbose_json(transcript)
    assert verbose_json(Transcript((), 1.0), words=True)["words"] == []
    plain = verbose_json(Transcript((), 1.0), task="translate")
    assert plain == {"task": "translate", "language": None, "duration": 1.0, "text": "", "segments": []}


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], ""),
        (["今日は", "晴れ"], "今日は晴れ"),
        (["good", "morning"], "good morning"),
        (["good ", " morning"], "good morning"),
        (["good", "", "  ", "morning"], "good morning"),
        (["これは", "test", "です"], "これはtestです"),
        (["一", "", "二"], "一二"),
    ],
)
def test_join_texts(texts: list[str], joined: str) -> None:
    assert join_texts(texts) == joined
