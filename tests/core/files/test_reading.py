"""What is read from disk is held against a limit before it is read, and against a type after that."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired

import pytest
from typing_extensions import TypedDict

from kikimimi.errors import DamagedError
from kikimimi.files.reading import read_bytes, read_json, read_text

pytestmark = pytest.mark.fault(
    "Limits: files of ours", "refused before they are read; the error names the file"
)


class State(TypedDict):
    step: int
    loss: float
    note: NotRequired[str]


@dataclass
class Fault:
    key: str
    reason: str


def test_what_has_the_expected_form_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"step": 3, "loss": NaN}')
    held = read_json(path, State)
    assert held["step"] == 3
    assert held["loss"] != held["loss"]
    path.write_text('[{"key": "a", "reason": "b"}]')
    assert read_json(path, list[Fault]) == [Fault("a", "b")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b'{"step": 1, "loss"', "is not JSON"),
        (b'{"step": "1", "loss": 1}', "step: Input should be a valid integer"),
        (b'{"step": true, "loss": 1}', "step: Input should be a valid integer"),
        (b'{"step": 1}', "loss: Field required"),
        (b"[1]", "the whole: "),
        (b"null", "the whole: "),
        (b"\xff\xfe{\x00}\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON: recursion limit exceeded"),
        (b'{"step": 1, "loss": 1, "note": "' + b"\xe3\x81" + b'"}', "is not JSON"),
    ],
)
def test_what_has_another_form_is_an_error_that_names_file_place_and_remedy(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError) as caught:
        read_json(path, State, remedy="Delete it: it is made again")
    assert str(caught.value).startswith(f"{path}: {said}")
    assert str(caught.value).endswith(". Delete it: it is made again")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(20 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedError, match=r"is 21\.5 GB large; at most 1\.05 MB are read"):
        read_json(path, State)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_folders_pipes_and_files_that_are_not_there_are_damaged_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("pipe", "is not a file"), (".", "is not a file|Is a directory"), ("none", "No such")):
        with pytest.raises(DamagedError, match=said):
            read_bytes(tmp_path / name, limit=10)


def test_text_says_where_it_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(path, limit=10) == "abc"
    path.write_bytes(b"abc\xff")
    with pytest.raises(DamagedError, match="is not UTF-8 \\(at byte 3\\)"):
        read_text(path, limit=10)


def test_too_many_open_files_say_nothing_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("kikimimi.files.reading.os.open", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        read_bytes(tmp_path / "a", limit=10)
