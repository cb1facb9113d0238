"""Files are there whole or not at all, and the system's refusals are one line that says what to do."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from kikimimi.errors import WriteError
from kikimimi.files.writing import add_lines, check_target, whole_file, writing

pytestmark = pytest.mark.fault(
    "The system: what is refused while a file is written", "the file before is untouched"
)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_appears_whole_and_its_folders_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    with whole_file(path) as unfinished:
        unfinished.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["b.txt"]


def test_after_an_error_the_file_before_is_untouched_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with suppress(RuntimeError), whole_file(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_target_is_tried_before_the_work_and_nothing_is_left_there(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("before")
    check_target(None)
    check_target(tmp_path / "there")
    check_target(tmp_path / "new" / "folders" / "a.json")
    assert os.listdir(tmp_path) == ["there"]
    assert (tmp_path / "there").read_text() == "before"
    with pytest.raises(WriteError, match=r"could not be written: Is a directory\. It is a folder: choose"):
        check_target(tmp_path)
    with pytest.raises(WriteError, match=r"One of the folders in this path is a file"):
        check_target(tmp_path / "there" / "a.json")
    with pytest.raises(
        WriteError, match=r"a\.json: could not be written: No such .*Its folder is gone, or takes"
    ):
        check_target(Path("/proc/a.json"))


def test_a_device_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/null")):
        with pytest.raises(WriteError, match=r"is a device or a pipe, .*: name a file"):
            check_target(path)
        with pytest.raises(WriteError, match="is a device or a pipe"), whole_file(path) as unfinished:
            unfinished.write_text("text")
    assert pipe.is_fifo()
    assert Path("/dev/null").is_char_device()


def test_a_full_disk_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def write() -> None:
        with whole_file(path) as unfinished:
            unfinished.symlink_to("/dev/full")
            unfinished.write_text("half")

    with pytest.raises(WriteError) as caught:
        write()
    assert str(caught.value) == (
        f"{path}: could not be written: No space left on device. Make room, then run the same command again. "
        "What was written before is untouched"
    )
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_on_the_way_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(WriteError, match="One of the folders in this path is a file"):
        add_lines(tmp_path / "a" / "b" / "c", ["x"])


def test_what_is_refused_of_another_file_is_not_blamed_on_the_one_that_is_written(tmp_path: Path) -> None:
    other = str(tmp_path / "elsewhere" / "input")
    with pytest.raises(PermissionError), writing(tmp_path / "out" / "file"):
        raise PermissionError(errno.EACCES, "Permission denied", other)
    with pytest.raises(WriteError), writing(tmp_path / "out" / "file"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "out" / ".file.1.tmp"))


def test_lines_are_added_after_those_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.jsonl"
    add_lines(path, ["one", "two\u2028"])
    add_lines(path, ["three"])
    assert path.read_bytes() == "one\ntwo\u2028\nthree\n".encode()


def test_lines_after_one_that_a_kill_cut_short_stand_on_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a"')
    add_lines(path, ['{"a": 2}'])
    assert path.read_bytes() == b'{"a": 1}\n{"a"\n{"a": 2}\n'


def test_lines_that_find_no_room_are_not_there_by_half(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    add_lines(path, ["x" * 9])
    with largest_file(20), pytest.raises(WriteError, match="ulimit -f"):
        add_lines(path, ["y" * 9, "z" * 9])
    assert path.read_text() == "x" * 9 + "\n"
    with largest_file(20):
        add_lines(path, ["y" * 9])
    assert path.read_text() == "x" * 9 + "\n" + "y" * 9 + "\n"
