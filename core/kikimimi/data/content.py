"""The bytes of a file, read where they are needed, and files that have no name."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from kikimimi.errors import WriteError
from kikimimi.files.writing import system_refusal

_BLOCK = 1 << 18
_SYSTEM = 2  # the code of libsndfile's error for what the system refuses
_HELD = 64 << 20  # bytes of a file without a name that are held in memory


class Content:
    """The bytes of a file, as slices of them are: those of a path are read block by block.

    Args:
        source: The bytes, the path of a file, or the descriptor of an open one (which stays open).

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, source: bytes | Path | int) -> None:
        self._bytes = source if isinstance(source, bytes) else None
        self._file = None if isinstance(source, bytes) else _opened(source)
        self._size = len(source) if isinstance(source, bytes) else self._seek_end()
        self._at, self._block = 0, b""

    def __enter__(self) -> Self:
        """Return it; it is closed in the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        """Return how many bytes there are."""
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        """Return a stretch of them."""
        if self._bytes is not None:
            return self._bytes[part]
        begin, end, _ = part.indices(self._size)
        if end - begin > _BLOCK:
            return self._read(begin, end - begin)
        if not (self._at <= begin and end <= self._at + len(self._block)):
            self._at = begin // _BLOCK * _BLOCK
            self._block = self._read(self._at, 2 * _BLOCK)
        return self._block[begin - self._at : max(end, begin) - self._at]

    def blocks(self, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of a stretch, block by block."""
        end = self._size if end is None else end
        for at in range(begin, end, _BLOCK):
            yield self[at : min(at + _BLOCK, end)]

    def find(self, wanted: bytes, begin: int, end: int | None = None) -> int:
        """Return where some bytes are found first, before `end` where it is given; or -1."""
        for at in range(begin, self._size if end is None else min(end, self._size), _BLOCK):
            place = self[at : at + _BLOCK + len(wanted) - 1].find(wanted)
            if place >= 0:
                return at + place
        return -1

    def is_padding(self, begin: int) -> bool:
        """Tell whether nothing but zeros follows."""
        return not any(block.strip(b"\0") for block in self.blocks(begin))

    @property
    def state(self) -> tuple[int, ...] | None:
        """What changes when the file does; None of bytes in memory."""
        if self._file is None:
            return None
        stat = os.fstat(self._file.fileno())
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open them as a file, for libraries that read by themselves.

        Yields:
            Its descriptor, at the beginning.
        """
        if self._bytes is not None:
            with memory_file(self._bytes) as held:
                yield held
        else:
            assert self._file is not None
            self._file.seek(0)
            yield self._file.fileno()

    def _seek_end(self) -> int:
        assert self._file is not None
        return self._file.seek(0, os.SEEK_END)

    def _read(self, at: int, size: int) -> bytes:
        assert self._file is not None
        self._file.seek(at)
        read = bytearray()
        while len(read) < size and (more := self._file.read(size - len(read))):
            read += more
        return bytes(read)


Pieces = Sequence[bytes | tuple[int, int]]
"""What a file is made of anew: bytes, and stretches (begin, end) of the file as it was."""


@contextmanager
def made_of(pieces: Pieces, content: Content) -> Iterator[int]:
    """Make a file of pieces of another.

    Yields:
        Its descriptor, at the beginning.
    """
    size = sum(len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces)
    with _nameless(size) as made:
        for piece in pieces:
            for block in (piece,) if isinstance(piece, bytes) else content.blocks(*piece):
                _write(made, block)
        os.lseek(made, 0, os.SEEK_SET)
        yield made


@contextmanager
def memory_file(content: bytes = b"") -> Iterator[int]:
    """Open a file that has no name and is gone in the end: in memory where the system knows such files.

    Yields:
        Its descriptor, at the beginning.
    """
    with _nameless(0) as held:
        _write(held, content)
        os.lseek(held, 0, os.SEEK_SET)
        yield held


def whole(descriptor: int) -> bytes:
    """Return all that a memory file holds."""
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        file.seek(0)
        return file.read()


@contextmanager
def _nameless(size: int) -> Iterator[int]:
    in_memory = hasattr(os, "memfd_create") and size <= _HELD
    with (
        os.fdopen(os.memfd_create("kikimimi"), "w+b", buffering=0)
        if in_memory
        else tempfile.TemporaryFile(buffering=0)
    ) as file:
        try:
            yield file.fileno()
        except OSError as error:
            if error.filename is not None or (told := system_refusal(error, "sound held in memory")) is None:
                raise
            raise WriteError(told) from error
        except RuntimeError as error:
            if getattr(error, "code", None) != _SYSTEM:
                raise
            raise WriteError(
                "sound held in memory: the system refuses. Either memory is full, or files as large as this "
                "are not allowed (ulimit -f)"
            ) from error


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]  # the system takes 2 GiB at a time


def _opened(source: Path | int) -> BinaryIO:
    if isinstance(source, int):
        return open(source, "rb", buffering=0, closefd=False)
    return source.open("rb", buffering=0)
