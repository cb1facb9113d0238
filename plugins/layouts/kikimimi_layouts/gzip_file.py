"""A gzip file that is read from any place, in bounded memory (RFC 1952)."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kikimimi import DataError

MAX_RATIO = 500
"""How many times its size a file may unpack to; records reach some tens, and gzip at most 1030."""

_SMALL = 1 << 28  # what may be unpacked at any ratio [bytes]
_READ = 1 << 16
_BETWEEN = 1 << 23  # points [bytes of what is unpacked]
_GZIP = 31  # the window of 2 ** 15 bytes, in the wrapping of gzip


@dataclass
class _Point:
    """A place from which unpacking can go on."""

    position: int
    packed: int
    unpacker: Any
    tail: bytes


class GzipFile:
    """A gzip file. What opens it shares points from which unpacking goes on: 40 kB for every 8 MB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.points = [_Point(0, 0, zlib.decompressobj(_GZIP), b"")]

    def open(self) -> IO[bytes]:
        """Open it for reading what is packed in it.

        Raises:
            DataError: While it is read: it is damaged, breaks off or unpacks to too much.
        """
        return io.BufferedReader(_Unpacked(self), _READ)


class _Unpacked(io.RawIOBase):
    def __init__(self, whole: GzipFile) -> None:
        self._whole = whole
        self._file = whole.path.open("rb")
        self._go_to(whole.points[0])

    def _go_to(self, point: _Point) -> None:
        self._file.seek(point.packed)
        self._position, self._packed = point.position, point.packed
        self._unpacker, self._tail = point.unpacker.copy(), point.tail

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        target = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}[whence] + offset
        best = max((p for p in self._whole.points if p.position <= target), key=lambda p: p.position)
        if target < self._position or best.position > self._position:
            self._go_to(best)
        while self._position < target and self._read(min(_READ, target - self._position)):
            pass
        return self._position

    def _read(self, size: int) -> bytes:
        data = b""
        while not data:
            if self._unpacker.eof and not self._next_member():
                return b""
            if not self._tail and not self._refill():
                raise DataError(f"{self._whole.path}: breaks off: unpacking needs more than is there")
            try:
                data = self._unpacker.decompress(self._tail, size)
            except zlib.error as error:
                raise DataError(f"{self._whole.path}: damaged: {error}") from error
            self._tail = self._unpacker.unconsumed_tail
        self._position += len(data)
        if self._position > max(_SMALL, MAX_RATIO * self._packed):
            raise DataError(
                f"{self._whole.path}: unpacks to more than {MAX_RATIO} times its size, as no records do. "
                "Unpack it yourself, if that is what you expect"
            )
        self._note()
        return data

    def _next_member(self) -> bool:
        """Go on to the next of several files that were joined; tell whether there is one."""
        self._tail = self._unpacker.unused_data.lstrip(b"\0")  # which some programs pad with
        while not self._tail:
            if not self._refill():
                return False
            self._tail = self._tail.lstrip(b"\0")
        self._unpacker = zlib.decompressobj(_GZIP)
        return True

    def _refill(self) -> bool:
        self._tail = self._file.read(_READ)
        self._packed += len(self._tail)
        return bool(self._tail)

    def _note(self) -> None:
        points = self._whole.points
        if self._position - points[-1].position >= _BETWEEN and not self._unpacker.eof:
            points.append(_Point(self._position, self._packed, self._unpacker.copy(), self._tail))
