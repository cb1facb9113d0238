"""The two ways to write a file: whole or not at all, and line by line at its end."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kikimimi.errors import WriteError

_ADVICE = {
    errno.ENOSPC: "Make room, then run the same command again",
    errno.EDQUOT: "Make room, or ask for a larger quota, then run the same command again",
    errno.EROFS: "Name a folder that can be written to",
    errno.EACCES: "Name a folder that you may write to, or ask for permission",
    errno.EPERM: "Name a folder that you may write to, or ask for permission",
    errno.EMFILE: "Too many files are open: raise the limit (ulimit -n 65536), or take fewer workers",
    errno.ENFILE: "Too many files are open on this machine: close programs, or take fewer workers",
    errno.EFBIG: "The file system, or a limit (ulimit -f), does not allow files as large as this",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ENOTDIR: "One of the folders in this path is a file",
    errno.EIO: "The disk fails: look into the system's log",
    errno.ESTALE: "The network file system has lost the folder: mount it again",
}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give the name under which a file is written, and then the file its own; after an error it is removed.

    Folders on the way are made. A file that was there before is replaced by a whole one, or left as it was.

    Args:
        path: The file. What a process that is killed leaves beside it is hidden, and ends in ``.PID.tmp``.

    Raises:
        WriteError: The system refuses: the disk is full, the folder may not be written to, and so on.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            unfinished.replace(path)
    finally:
        with suppress(OSError):  # what stopped the writing may stop this too, and is the cause to tell
            unfinished.unlink(missing_ok=True)


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
def writing(path: Path) -> Iterator[None]:
    """Turn what the system refuses while a file or folder is written into one line for people.

    Raises:
        WriteError: The system refuses.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _ADVICE or not _concerns(path, error.filename):
            raise
        raise WriteError(
            f"{path}: could not be written: {error.strerror}. {_ADVICE[error.errno]}. "
            "What was written before is untouched"
        ) from error


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _concerns(path: Path, refused: str | bytes | int | None) -> bool:
    """Tell whether what was refused is this file, its temporary name or a folder of it, and no other file."""
    if not isinstance(refused, str):
        return True
    other = Path(refused)
    return other.parent == path.parent or path.parent in other.parents or other in path.parents
