"""What is read from disk is held against a limit before it is read, and against a type after that."""

import errno
import glob
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired

import pytest
from typing_extensions import TypedDict

from kikimimi.errors import DamagedError
from kikimimi.files.reading import file_there, folder_there, paths_in, read_bytes, read_json, read_text

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


def test_a_folder_in_the_place_of_a_file_is_called_so(tmp_path: Path) -> None:
    """The number of an open file was named, which stayed open."""
    before = os.listdir("/proc/self/fd")
    for read in (read_bytes, read_text):
        with pytest.raises(DamagedError, match=rf"^{tmp_path}: is not a file\. Delete it$"):
            read(tmp_path, limit=10, remedy="Delete it")
    assert os.listdir("/proc/self/fd") == before


def test_a_name_that_leads_nowhere_is_not_one_that_is_not_there(tmp_path: Path) -> None:
    loop, lost, folder, file = (tmp_path / name for name in ("loop", "lost", "folder", "file"))
    loop.symlink_to(loop)
    lost.symlink_to(tmp_path / "gone")
    folder.mkdir()
    file.write_text("")
    assert (file_there(file), folder_there(folder)) == (True, True)
    for there in (file_there, folder_there):
        assert not there(tmp_path / "none")
        assert not there(file / "below")
        with pytest.raises(DamagedError, match=r"loop: cannot be read: Too many levels .*\. Restore it"):
            there(loop, "Restore it")
        with pytest.raises(DamagedError, match=r"lost: is a symbolic link that leads nowhere\. Restore it"):
            there(lost, "Restore it")
    with pytest.raises(DamagedError, match="folder: is not a file"):
        file_there(folder)
    with pytest.raises(DamagedError, match="file: is not a folder"):
        folder_there(file)


def test_paths_match_as_those_of_glob(tmp_path: Path) -> None:
    names = ("b/2.tar", "b/1.tar", "a/3.tar", "a/x.txt", "a/.4.tar", ".c/5.tar", "6.tar", "[d]/7.tar")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    for pattern in (
        "*.tar",
        "*/*.tar",
        "a/*",
        "?/[12].tar",
        "a/3.tar",
        "none/*",
        "6.tar/*",
        "*/none",
        "[[]d]/*",
    ):
        expected = sorted(glob.glob(str(tmp_path / pattern)))
        assert [*map(str, paths_in(tmp_path, pattern))] == expected, pattern
    assert paths_in(tmp_path, ".*/*") == [tmp_path / ".c" / "5.tar"]


def test_a_folder_that_may_not_be_looked_into_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir()
    listed = os.listdir

    def refuse(path: Path) -> list[str]:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert paths_in(tmp_path, "*") == [tmp_path / "closed", tmp_path / "open"]
    with pytest.raises(PermissionError, match="closed"):
        paths_in(tmp_path, "*/*.tar")
