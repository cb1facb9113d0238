from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kikimimi.contracts.layout import BadRow, Layout, Row
from kikimimi.errors import DataError, RequestError
from kikimimi_layouts.librispeech import LibriSpeech

FILES = {
    "dev-clean/121/123852/121-123852.trans.txt": "121-123852-0000 ALSO A POPULAR CONTRIVANCE\n",
    "dev-clean/121/123852/121-123852-0000.flac": None,
    "dev-clean/121/121726/121-121726.trans.txt": "121-121726-0000 HARANGUE\n121-121726-0001 PAIN'S END\n",
    "dev-clean/121/121726/121-121726-0000.flac": None,
}


def test_rows(write: Callable[..., Path], read: Callable[[Layout], list[Row]]) -> None:
    folder = write(FILES)
    assert LibriSpeech.matches(folder)
    rows = read(LibriSpeech(str(folder), LibriSpeech.Config(split="dev-clean")))
    assert [row.name for row in rows] == [
        "121-121726-0000.flac",
        "121-121726-0001.flac",
        "121-123852-0000.flac",
    ]
    assert rows[1] == Row(
        "121-121726-0001.flac",
        {
            "text": "pain's end",
            "language": "en",
            "meta": {
                "license": "CC-BY-4.0",
                "source": "librispeech",
                "split": "dev-clean",
                "speaker": "121",
                "chapter": "121726",
            },
        },
        (folder / "dev-clean/121/121726/121-121726-0001.flac",),
    )
    as_is = read(LibriSpeech(str(folder), LibriSpeech.Config(split="dev-clean", case="as_is")))
    assert as_is[2].record["text"] == "ALSO A POPULAR CONTRIVANCE"


def test_refuses(write: Callable[..., Path]) -> None:
    folder = write(FILES)
    with pytest.raises(
        RequestError, match=r"no test-clean \(the clips of split=test-clean\).* is: dev-clean"
    ):
        LibriSpeech(str(folder), LibriSpeech.Config(split="test-clean"))
    with pytest.raises(RequestError, match=r"dev-clean: there is no SPEAKER/CHAPTER/"):
        LibriSpeech(str(write({"dev-clean/121/a.flac": None}, "bare")), LibriSpeech.Config(split="dev-clean"))
    with pytest.raises(ValueError, match=r"split: 'dev_clean' .* Did you mean 'dev-clean'\?"):
        LibriSpeech.Config(split="dev_clean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"case: 'upper' is not one of as_is, lower"):
        LibriSpeech.Config(case="upper")  # type: ignore[arg-type]
    transcript = folder / "dev-clean/121/121726/121-121726.trans.txt"
    transcript.write_text("no number\n")
    (folder / "dev-clean/121/123852/121-123852.trans.txt").write_text("")
    with pytest.raises(DataError, match=r"trans\.txt:1: expected SPEAKER-CHAPTER-NUMBER and the words, not"):
        LibriSpeech(str(folder), LibriSpeech.Config(split="dev-clean"))


def test_a_bad_line_ends_no_corpus(
    write: Callable[..., Path], read: Callable[[Layout], list[Row | BadRow]]
) -> None:
    folder = write(FILES)
    transcript = folder / "dev-clean/121/121726/121-121726.trans.txt"
    # U+2028 and its kin are letters; lines end at line feeds.
    transcript.write_bytes("121-121726-0000 A\u2028B\x85C\r\nno number\n".encode() + b"1-2-3 \xff\n")
    first, second, third, last = read(LibriSpeech(str(folder), LibriSpeech.Config(split="dev-clean")))
    assert isinstance(first, Row)
    assert first.record["text"] == "a\u2028b\x85c"
    assert isinstance(second, BadRow)
    assert second.name == f"{transcript}:2"
    assert "trans.txt:2: expected SPEAKER-CHAPTER-NUMBER and the words, not 'no number'" in second.reason
    assert isinstance(third, BadRow)
    assert "trans.txt:3: not UTF-8" in third.reason
    assert isinstance(last, Row)


def test_files_that_macos_adds_are_passed_over(
    write: Callable[..., Path], read: Callable[[Layout], list[Row]]
) -> None:
    folder = write(FILES)
    (folder / "dev-clean/121/121726/._121-121726.trans.txt").write_bytes(b"\0\5\xff")
    assert len(read(LibriSpeech(str(folder), LibriSpeech.Config(split="dev-clean")))) == 3
