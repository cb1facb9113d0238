from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kikimimi.contracts.layout import BadRow, Layout, Row
from kikimimi.errors import DataError, RequestError
from kikimimi_layouts.adu_bench import ADUBench

LINE = {"question": "Really!?", "answer": "Yes.", "source": "s", "category": "c"}


def lines(*each: dict[str, Any]) -> str:
    return "".join(json.dumps({**LINE, **line}) + "\n" for line in each)


FILES = {
    "input/ADU-General/daily_question.jsonl": lines(
        {"audio": "ADU-General/daily_question_statement/a.wav"},
        {"audio": "/home/me/ADU-General/daily_question_statement/a.wav", "answer": " "},
        {"audio": "/home/me/ADU-General/daily_question_statement/a.wav"},
    ),
    "input/ADU-Multilingual/french.jsonl": lines({"audio": "../data/b.wav"}),
    "ADU-General/daily_question_statement/a.wav": None,
    "ADU-Multilingual/french/b.wav": None,
}


def layout(folder: Path, *subsets: str) -> ADUBench:
    return ADUBench(str(folder), ADUBench.Config(subsets=list(subsets)))


def test_rows(write: Callable[..., Path], read: Callable[[Layout], list[Row | BadRow]]) -> None:
    folder = write(FILES)
    assert ADUBench.matches(folder)
    general, bad, elsewhere, french = read(layout(folder, "*"))
    clip = folder / "ADU-General/daily_question_statement/a.wav"
    meta = {"source": "adu_bench", "language": "en", "set": "ADU-General", "subset": "daily_question"}
    spoken = {"type": "audio", "audio": "0", "text": "Really!?"}
    messages = [{"role": "user", "content": [spoken]}, {"role": "assistant", "content": "Yes."}]
    assert general == Row(
        "ADU-General/daily_question_statement/a.wav",
        {"messages": messages, "meta": {**meta, "category": "c", "from": "s"}},
        (clip,),
    )
    assert isinstance(bad, BadRow)
    assert "daily_question.jsonl:2: answer: expected a text, not ' '" in bad.reason
    assert isinstance(elsewhere, Row)
    assert elsewhere.clips == (clip,)
    assert isinstance(french, Row)
    assert french.clips == (folder / "ADU-Multilingual/french/b.wav",)
    assert french.record["meta"]["language"] == "fr"
    assert len(layout(folder, "ADU-Multilingual/*")) == 1


def test_refuses(write: Callable[..., Path]) -> None:
    folder = write(FILES)
    with pytest.raises(
        RequestError, match=r"there is no 'japanese'. Subsets: ADU-General/daily_question, ADU-M"
    ):
        layout(folder, "ADU-General/*", "japanese")
    with pytest.raises(RequestError, match=r"there is no input/SET/SUBSET.jsonl"):
        layout(write({"a.txt": ""}, "other"), "*")
    with pytest.raises(DataError, match=r"question: expected a text, not 1"):
        layout(write({"input/ADU-Skill/law.jsonl": lines({"question": 1, "audio": "a.wav"})}, "bad"), "*")
