"""A file that is split into parts, read as one without copying it."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class _Joined(io.RawIOBase):
    """Reads parts one after the other; seekable."""

    def __init__(self, parts: Sequence[Path]) -> None:
        super().__init__()
        self._files = [part.open("rb") for part in parts]
        self._sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        start = self._position
        for file, size in zip(self._files, self._sizes, strict=True):
            if start < size:
                file.seek(start)
                # A read ends with its part: the caller asks again for the rest.
                count = file.readinto(memoryview(buffer).cast("B"))
                self._position += count
                return count
            start -= size
        return 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: sum(self._sizes)}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._position = base + offset
        return self._position

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def open_joined(parts: Sequence[Path]) -> BinaryIO:
    """Open the concatenation of files for reading and seeking."""
    if len(parts) == 1:
        return parts[0].open("rb")
    return cast(BinaryIO, io.BufferedReader(_Joined(parts)))
