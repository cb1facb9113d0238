"""Reading pieces of shards, wherever they lie: local files, web servers, object stores."""

from __future__ import annotations

import os
from typing import Any

from kikimimi.data.shards.remote import is_url, read_range
from kikimimi.errors import StorageError

OPEN_FILES = 64
"""Local shards kept open, for each store and process."""


class Store:
    """Reads pieces of shards; files are opened where and when they are read.

    May be sent to other processes, and survives a fork: only descriptors are kept, and reading moves no file
    position.
    """

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}

    def read(self, shard: str, offset: int, size: int, total: int) -> bytes:
        """Return a piece of a shard; less of it where the shard ends before.

        Args:
            shard: A path or a URL.
            offset: Where the piece begins [bytes].
            size: How long it is [bytes].
            total: How long the shard is thought to be [bytes].

        Raises:
            RequestError: A URL is not there, access is denied, or its server has no byte ranges.
            StorageError: The file cannot be opened or read, or the server does not answer.
        """
        if is_url(shard):
            return read_range(shard, offset, size, total)
        try:
            return read_descriptor(self._descriptor(shard), offset, size)
        except OSError as error:
            raise StorageError(f"{shard}: cannot be read: {error.strerror}") from error

    def close(self) -> None:
        """Close what is open; it is opened again when it is read."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"_descriptors": {}}

    def __del__(self) -> None:
        if "_descriptors" in self.__dict__:
            self.close()

    def _descriptor(self, shard: str) -> int:
        if shard not in self._descriptors:
            if len(self._descriptors) >= OPEN_FILES:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[shard] = os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptors[shard]


def read_descriptor(descriptor: int, offset: int, size: int) -> bytes:
    """Return a piece of an open file; less of it where the file ends before."""
    # pread moves no file position: descriptors may be shared with forked processes.
    piece = os.pread(descriptor, size, offset)
    if len(piece) == size:
        return piece
    pieces = [piece]
    while piece and (size := size - len(piece)):
        offset += len(piece)
        piece = os.pread(descriptor, size, offset)
        pieces.append(piece)
    return b"".join(pieces)
