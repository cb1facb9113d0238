"""WAV files that are still being written, and WAV that comes through a pipe, as blocks of mono samples."""

from __future__ import annotations

import math
import os
import stat
import struct
import time
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.chunks import is_placeholder
from kikimimi.data.codec import MIN_SAMPLE_RATE
from kikimimi.errors import AudioError

_POLL = 0.05  # s between two looks at a file that has not grown
_BLOCK_SECONDS = 10.0  # most that is read at once, where much is there already
_LARGEST_HEADER = 1 << 20  # bytes before the samples
_INTEGERS, _FLOATS, _EXTENSIBLE = 1, 3, 0xFFFE


class _Form(NamedTuple):
    """How samples are written."""

    is_float: bool
    bytes_each: int
    channels: int
    rate: int


class GrowingWav:
    """A WAV file that grows, or a pipe through which one comes.

    A file goes on for ever, as for `tail -f`, unless it is stopped or stays as it is for too long; a pipe
    or a device ends. The size in the header is read again and again, and not believed where it stands for
    none, as programs that still record write it.

    Args:
        file: The file, open for reading without a buffer.
        name: What messages call it.
        idle: How long a file may stay as it is until it counts as finished [s]; None is for ever.

    Attributes:
        rate: Sampling rate [Hz].

    Raises:
        AudioError: It is no WAV of integers or floats, or ends within its header.
    """

    def __init__(self, file: BinaryIO, name: str, *, idle: float | None = None) -> None:
        self._file, self._name, self._idle = file, name, idle
        self._grows = file.seekable() and not self._is_device()
        self._stopped = False
        self._form, self._begin, self._promised = self._header()
        self.rate = self._form.rate

    def stop(self) -> None:
        """Let it end with what is there by now."""
        self._stopped = True

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Yield (S,) mono float32 as they come, end to end; channels are averaged.

        Raises:
            AudioError: It holds samples that are not numbers; or it was cut or deleted meanwhile.
        """
        width = self._form.channels * self._form.bytes_each
        most = int(_BLOCK_SECONDS * self.rate) * width
        held, taken = b"", 0
        while some := self._more(most, taken):
            taken += len(some)
            held += some
            whole = len(held) // width * width
            if whole:
                yield self._samples(held[:whole])
                held = held[whole:]

    def _samples(self, content: bytes) -> NDArray[np.float32]:
        decoded = _decoded(content, self._form).reshape(-1, self._form.channels)
        samples: NDArray[np.float32] = decoded.mean(axis=1, dtype=np.float32)
        if not math.isfinite(float(samples.sum())):
            raise AudioError(f"{self._name}: holds samples that are not numbers (NaN or infinite)")
        return samples

    def _more(self, most: int, taken: int | None = None) -> bytes:
        """Wait for bytes, and return some; none when it has ended.

        Args:
            most: Bytes that are wanted.
            taken: Bytes of samples that were read before; None within the header.
        """
        since = time.monotonic()
        while True:
            size = None if taken is None else self._size()
            room = most if size is None else min(most, size - (taken or 0))
            if room > 0 and (some := self._file.read(room)):
                return some
            if self._stopped or not self._grows:
                return b""
            if self._idle is not None and time.monotonic() - since >= self._idle:
                return b""
            self._check_there()
            time.sleep(_POLL)

    def _is_device(self) -> bool:
        found = self._stat()
        return found is not None and stat.S_ISCHR(found.st_mode)  # /dev/null says that it can be searched

    def _check_there(self) -> None:
        found = self._stat()
        if found is not None and found.st_nlink == 0:
            raise AudioError(f"{self._name}: was deleted while it was heard")
        if found is not None and found.st_size < self._file.tell():
            raise AudioError(f"{self._name}: was cut while it was heard")

    def _stat(self) -> os.stat_result | None:
        try:
            return os.fstat(self._file.fileno())
        except OSError:  # held in memory
            return None

    def _size(self) -> int | None:
        """Return how many bytes of samples the header promises by now; None where it does not know."""
        if self._grows:
            here = self._file.tell()
            self._file.seek(self._begin - 4)
            self._promised = int.from_bytes(self._file.read(4), "little")
            self._file.seek(here)
        return None if self._promised == 0 or is_placeholder(self._promised) else self._promised

    def _header(self) -> tuple[_Form, int, int]:
        """Return how samples are written, where they begin, and how many bytes of them are promised."""
        begin = self._exactly(12)
        if begin[:4] not in (b"RIFF", b"RF64") or begin[8:] != b"WAVE":
            raise AudioError(
                f"{self._name}: is not WAV, the only format that can be heard while it is written; record "
                "with arecord, or convert with: ffmpeg -i SOURCE -f wav -"
            )
        at, form = 12, None
        while True:
            kind, size = struct.unpack("<4sI", self._exactly(8))
            at += 8
            if kind == b"data":
                break
            if at + size > _LARGEST_HEADER:
                raise AudioError(f"{self._name}: has no samples in its first {_LARGEST_HEADER >> 20} MiB")
            content = self._exactly(size + size % 2)
            at += len(content)
            if kind == b"fmt ":
                form = self._form_of(content)
        if form is None:
            raise AudioError(f"{self._name}: its header does not tell how samples are written")
        return form, at, size

    def _form_of(self, content: bytes) -> _Form:
        if len(content) < 16:
            raise AudioError(f"{self._name}: its header does not tell how samples are written")
        code, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
        if code == _EXTENSIBLE and len(content) >= 26:
            code = int.from_bytes(content[24:26], "little")
        if (code, bits) not in _READ:
            raise AudioError(
                f"{self._name}: holds samples of kind {code} with {bits} bits; while it is written, integers "
                "of 8, 16, 24 or 32 bits and floats of 32 or 64 are heard"
            )
        if channels < 1 or rate < MIN_SAMPLE_RATE:
            raise AudioError(
                f"{self._name}: its header gives {channels} channels at {rate} Hz; the least is one at "
                f"{MIN_SAMPLE_RATE} Hz"
            )
        return _Form(code == _FLOATS, bits // 8, channels, rate)

    def _exactly(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            some = self._more(count - len(content))
            if not some:
                raise AudioError(f"{self._name}: ends within its header")
            content += some
        return content


_READ = {*((_INTEGERS, bits) for bits in (8, 16, 24, 32)), (_FLOATS, 32), (_FLOATS, 64)}


def _decoded(content: bytes, form: _Form) -> NDArray[np.float64]:
    """Return samples of which full scale is 1."""
    if form.is_float:
        return np.frombuffer(content, f"<f{form.bytes_each}").astype(np.float64)
    if form.bytes_each == 1:
        return np.frombuffer(content, np.uint8).astype(np.float64) / 128 - 1
    if form.bytes_each == 3:
        # Three bytes become the upper ones of four.
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        return wide.view("<i4").ravel().astype(np.float64) / float(2**31)
    whole: NDArray[np.float64] = np.frombuffer(content, f"<i{form.bytes_each}").astype(np.float64)
    return whole / float(1 << (8 * form.bytes_each - 1))
