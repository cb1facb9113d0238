"""The two ways to write a file: whole or not at all, and line by line at its end; and a folder whole."""

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kikimimi.errors import WriteError

_AGAIN = "then run the same command again"
_ADVICE = {
    errno.ENOSPC: f"Make room, {_AGAIN}",
    errno.EDQUOT: f"Make room, or ask for a larger quota, {_AGAIN}",
    errno.EROFS: "Name a folder that can be written to",
    errno.EACCES: "Name a folder that you may write to, or ask for permission",
    errno.EPERM: "Name a folder that you may write to, or ask for permission",
    errno.EMFILE: f"Raise the limit (ulimit -n 65536), or take fewer workers, {_AGAIN}",
    errno.ENFILE: f"Close programs of this machine, or take fewer workers, {_AGAIN}",
    errno.EFBIG: f"Files as large as this are not allowed (ulimit -f): raise the limit, {_AGAIN}",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ENOTDIR: "One of the folders in this path is a file: choose another path",
    errno.EEXIST: "One of the folders in this path is a file: choose another path",
    errno.ENOENT: "Its folder is gone, or takes no files: choose another path",
    errno.EISDIR: "It is a folder: choose another path, or move it away",
    errno.ELOOP: "A symbolic link in this path leads to itself: choose another path",
    errno.EIO: "The disk fails: look into the system's log",
    errno.ESTALE: f"The network file system has lost the folder: mount it again, {_AGAIN}",
    errno.EAGAIN: f"Too many processes (ulimit -u): close programs, or take fewer workers, {_AGAIN}",
    errno.ENOMEM: f"Memory is full: close programs, or take fewer workers, {_AGAIN}",
}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the name under which a file is written, and then the file its own; after an error it is removed.

    Folders on the way are made. A file that was there before is replaced by a whole one, or left as it was.

    Args:
        path: The file. What a process that is killed leaves beside it is hidden, and ends in ``.tmp``.

    Raises:
        WriteError: The system refuses: the disk is full, the folder may not be written to, and so on.
    """
    with _unfinished(path) as unfinished:
        yield unfinished
        sync(unfinished)
        unfinished.replace(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to write into, and then its own name to it; after an error it is removed.

    Args:
        path: The folder, which is not there yet or empty; folders on the way are made.

    Raises:
        WriteError: The system refuses.
    """
    with _unfinished(path) as unfinished:
        unfinished.mkdir()
        yield unfinished
        for folder, _, files in os.walk(unfinished):
            for name in files:
                sync(Path(folder) / name)
        unfinished.rename(path)


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    # Other machines that share the folder have processes of the same number.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file() and not path.is_dir():
                raise WriteError(f"{path}: is a device or a pipe, in whose place no file is put: name a file")
            yield unfinished
    finally:
        with suppress(OSError):  # what stopped the writing may stop this too, and is the cause to tell
            if unfinished.is_dir():
                shutil.rmtree(unfinished)
            else:
                unfinished.unlink(missing_ok=True)


def check_target(path: Path | None) -> None:
    """Check that a file can be written before the work whose outcome it is to hold; nothing is left there.

    Args:
        path: The file; None where none was asked for.

    Raises:
        WriteError: The system refuses.
    """
    if path is None:
        return
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        made = [folder for folder in path.parents if not os.path.lexists(folder)]
        try:
            with _unfinished(path) as unfinished:
                unfinished.write_bytes(b"?")
        finally:
            for folder in made:  # the innermost first
                with suppress(OSError):
                    folder.rmdir()


def add_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines of text to the end of a file, which is made where there is none.

    All of them are added, or none; after a line that a kill cut short, they begin on a line of their own.

    Args:
        path: The file; UTF-8.
        lines: Lines without the line feed at the end.

    Raises:
        WriteError: The system refuses.
    """
    content = "".join(f"{line}\n" for line in lines).encode("utf-8", errors="backslashreplace")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
                content = b"\n" + content
            try:
                _write_all(file.fileno(), content)
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder for a while, where the system keeps such folders.

    Raises:
        WriteError: The system refuses.
    """
    try:
        place = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise WriteError(
            f"{error.strerror}: make room in one of them, or name another: TMPDIR=FOLDER"
        ) from error
    with writing(place):
        made = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with made as folder:
        yield Path(folder)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system refuses while a file or folder is written into one line for people.

    Raises:
        WriteError: The system refuses.
    """
    try:
        yield
    except Exception as error:
        cause = error if isinstance(error, OSError) else _from_rust(error)
        if cause is None or not _concerns(path, cause.filename):
            raise
        if (told := system_refusal(cause, f"{path}: could not be written")) is None:
            raise
        raise WriteError(f"{told}. What was written before is untouched") from error


def system_refusal(error: OSError, what: str = "") -> str | None:
    """Return one line about what the system refuses, and what to do; None where it is no such error.

    Args:
        error: What was raised.
        what: What is to be said of it; else the file or folder that it names, which is to be read.
    """
    # Without a word on what was done, a file that is missing is a fault of ours.
    if error.errno not in _ADVICE or (error.errno == errno.ENOENT and not what):
        return None
    if what or error.filename is None:
        return f"{what or 'the system refuses'}: {error.strerror}. {what_to_do(error)}"
    return f"{error.filename}: {error.strerror}. {what_to_do(error, reading=True)}"


def what_to_do(error: OSError, *, reading: bool = False) -> str:
    """Return what people can do about what the system refuses: to write, or to read."""
    if reading and error.errno in (errno.EACCES, errno.EPERM):
        return "Ask for permission to read it"
    return _ADVICE.get(error.errno or 0, f"Mend that, {_AGAIN}")


def _from_rust(error: Exception) -> OSError | None:
    """Return what safetensors and tokenizers tell of the system in the text of an error of their own."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def sync(path: Path) -> None:
    """Have a file or folder on the disk before it is called by its name: a disk may be found full only then.

    Raises:
        OSError: The system refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot be asked
            raise
    finally:
        os.close(descriptor)


def _concerns(path: Path, refused: str | bytes | int | None) -> bool:
    """Tell whether what was refused is this file, its temporary name or a folder of it, and no other file."""
    if not isinstance(refused, str):
        return True
    other = Path(refused)
    return other.parent == path.parent or path.parent in other.parents or other in path.parents
