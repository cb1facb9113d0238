from __future__ import annotations

from pathlib import Path

import pytest
from kikimimi_ljspeech import LJSpeech

from kikimimi import BadRow, DataError, RequestError, Row
from kikimimi.testing import Check, parametrize_checks


@parametrize_checks(LJSpeech, default=LJSpeech.Config(), as_written=LJSpeech.Config(spelt_out=False))
def test_contract(check: Check) -> None:
    check()


def corpus(folder: Path, text: str) -> str:
    (folder / "wavs").mkdir()
    (folder / "metadata.csv").write_text(text, encoding="utf-8", newline="")
    return str(folder)


@pytest.mark.parametrize(("spelt_out", "expected"), [(True, "in two\u2028lines"), (False, 'in "2" lines')])
def test_text(spelt_out: bool, expected: str, tmp_path: Path) -> None:
    path = corpus(tmp_path, 'LJ012-0003|in "2" lines|in two\u2028lines\r\n')
    (row,) = LJSpeech(path, LJSpeech.Config(spelt_out=spelt_out)).rows(0, 1)
    assert isinstance(row, Row)
    assert (row.name, row.clips) == ("wavs/LJ012-0003.wav", (tmp_path / "wavs" / "LJ012-0003.wav",))
    assert (row.record["text"], row.record["meta"]["book"]) == (expected, "LJ012")


def test_a_bad_line_ends_no_corpus(tmp_path: Path) -> None:
    path = corpus(tmp_path, "LJ001-0001|only two\n\nLJ001-0002|a|b\nLJ001-0003||b\n")
    found = list(LJSpeech(path, LJSpeech.Config()).rows(0, 3))
    assert [(type(row), row.name) for row in found] == [
        (BadRow, "metadata.csv:1"),
        (Row, "wavs/LJ001-0002.wav"),
        (BadRow, "metadata.csv:4"),
    ]


def test_a_line_that_is_not_utf_8_is_a_bad_row(tmp_path: Path) -> None:
    path = corpus(tmp_path, "LJ001-0001|a|b\n")
    with (tmp_path / "metadata.csv").open("ab") as file:
        file.write("LJ001-0002|caf\u00e9|caf\u00e9\n".encode("latin-1"))
    good, bad = LJSpeech(path, LJSpeech.Config()).rows(0, 2)
    assert isinstance(good, Row)
    assert isinstance(bad, BadRow)
    assert "not UTF-8" in bad.reason


def test_what_is_no_lj_speech(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"is no LJ Speech: expected metadata\.csv and the folder wavs"):
        LJSpeech(str(tmp_path), LJSpeech.Config())
    with pytest.raises(DataError, match=r"metadata\.csv has no line of a clip's name"):
        LJSpeech(corpus(tmp_path, "a,b,c\n"), LJSpeech.Config())
