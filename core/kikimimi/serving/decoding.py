"""From an upload to samples, in threads, of which few work at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

import anyio.to_thread
import numpy as np
from anyio import CapacityLimiter
from numpy.typing import NDArray

from kikimimi.data.audio import decode_opened, resampled
from kikimimi.data.stream import opened
from kikimimi.inference.cutting import CutPiece
from kikimimi.serving.limits import Limits

_THREADS = 2  # a core decodes an hour of FLAC in some seconds

Samples = NDArray[np.float32]
"""(S,) mono samples."""


_Made = TypeVar("_Made")


class UploadDecoder:
    """Decodes uploads to mono float32.

    Args:
        sample_rate: Wanted rate [Hz].
        limits: How long a clip may be.
    """

    def __init__(self, sample_rate: int, limits: Limits) -> None:
        self.sample_rate, self.limits = sample_rate, limits
        self._threads = CapacityLimiter(_THREADS)

    async def clip(self, content: bytes, name: str) -> Samples:
        """Decode a whole file.

        Args:
            content: The file.
            name: What messages call it.

        Returns:
            (S,) samples.

        Raises:
            RefusalError: It is longer than it may be.
            AudioError: It cannot be decoded.
        """

        def decode() -> Samples:
            with opened(content, name) as stream:
                self.limits.check_seconds(stream.seconds, name)
                return decode_opened(stream, self.sample_rate)

        return await self.in_thread(decode)

    async def cut(
        self,
        content: bytes,
        name: str,
        cut: Callable[[Iterable[Samples]], Iterator[CutPiece]],
        count: Callable[[int], None],
    ) -> AsyncGenerator[CutPiece, None]:
        """Decode a file block by block, and yield what a function cuts these into: one is held at a time.

        Args:
            content: The file.
            name: What messages call it.
            cut: The function, of blocks of (S,) samples.
            count: Told the number of samples of each block.

        Raises:
            RefusalError: It is longer than it may be.
            AudioError: It cannot be decoded.
        """

        def counted(blocks: Iterable[Samples]) -> Iterator[Samples]:
            for block in blocks:
                count(len(block))
                yield block

        def pieces() -> Generator[CutPiece, None, None]:
            with opened(content, name) as stream:
                self.limits.check_seconds(stream.seconds, name)
                yield from cut(counted(resampled(stream.blocks(), stream.rate, self.sample_rate)))

        made = pieces()
        try:
            while (piece := await self.in_thread(lambda: next(made, None))) is not None:
                yield piece
        finally:
            with suppress(ValueError):  # a thread still reads: it is closed when that is done
                made.close()

    async def in_thread(self, work: Callable[[], _Made]) -> _Made:
        """Do work in a thread; who gives up waits until it is done, so that it holds nothing any more."""
        return await anyio.to_thread.run_sync(work, limiter=self._threads)
