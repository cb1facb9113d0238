"""Transcripts as files: SubRip, WebVTT, and the `verbose_json` of OpenAI's transcriptions.

WebVTT: https://www.w3.org/TR/webvtt1/. SubRip has no standard; players agree on what is written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from kikimimi.console.terminal import visible
from kikimimi.inference.transcript import TextSegment, TimedWord, Transcript


def srt(segments: Iterable[TextSegment]) -> str:
    """Write segments as SubRip (`.srt`); those without a text are left out."""
    return "".join(
        f"{number}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{text}\n\n"
        for number, (segment, text) in enumerate(_cues(segments), 1)
    )


def vtt(segments: Iterable[TextSegment]) -> str:
    """Write segments as WebVTT (`.vtt`); those without a text are left out."""
    # What would be markup is written as character references.
    return "WEBVTT\n\n" + "".join(
        f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n"
        f"{text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}\n\n"
        for segment, text in _cues(segments)
    )


def verbose_json(
    transcript: Transcript, *, language: str | None = None, task: str = "transcribe", words: bool = False
) -> dict[str, Any]:
    """Return the fields of OpenAI's `verbose_json`, as far as they are known.

    Args:
        transcript: What was heard.
        language: Language code, where it was given.
        task: Word that says what was asked: `transcribe` or `translate`.
        words: Whether the times of words were asked for.

    Returns:
        `task`, `language`, `duration` [s], `text` and `segments` (`id`, `start`, `end`, `text`); `words`
        (`word`, `start`, `end`) where they were asked for.
    """
    told = [_word(word) for heard in transcript.segments for word in heard.words]
    return {
        "task": task,
        "language": language,
        "duration": _rounded(transcript.seconds),
        "text": transcript.text,
        "segments": [
            {"id": number, "start": _rounded(heard.start), "end": _rounded(heard.end), "text": heard.text}
            for number, heard in enumerate(transcript.segments)
        ],
        **({"words": told} if words else {}),
    }


def _word(timed: TimedWord) -> dict[str, Any]:
    return {"word": timed.word, "start": _rounded(timed.start), "end": _rounded(timed.end)}


def _cues(segments: Iterable[TextSegment]) -> Iterator[tuple[TextSegment, str]]:
    """Yield segments that have a text, and that text: an empty line would end its cue."""
    for segment in segments:
        lines = (visible(line).strip() for line in re.split(r"[\r\n]+", segment.text))
        if text := "\n".join(filter(None, lines)):
            yield segment, text


def _clock(seconds: float, point: str) -> str:
    """Return a time as hours, minutes, seconds and milliseconds."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
