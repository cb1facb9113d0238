"""FLAC streams (RFC 9639): where they end, and whether their header tells it.

A program that writes into a pipe cannot go back and tell how many samples there are, and libsndfile cannot
read what does not tell it. The last frame does: its header counts the frames or samples before it.
"""

import hashlib
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.content import Content, Pieces
from kikimimi.errors import AudioError

FLAC_MARK = b"fLaC"
_INFO = 4 + 4  # where STREAMINFO's content begins
_TOTAL = _INFO + 13  # of the number of samples: 36 bits, after 4 of something else
_TOTAL_MASK = (1 << 36) - 1
_SUMMED = 1 << 14  # samples that are added to a checksum together
_RATES = {1: 88_200, 2: 176_400, 3: 192_000, 4: 8_000, 5: 16_000, 6: 22_050, 7: 24_000, 8: 32_000, 9: 44_100}
_RATES |= {10: 48_000, 11: 96_000}
_BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}


class _Info(NamedTuple):
    block: int
    largest_block: int
    rate: int
    channels: int
    bits: int
    total: int
    md5: bytes

    @property
    def largest_frame(self) -> int:
        """Bytes that a frame has at most: samples as they are, of one channel as differences."""
        return self.largest_block * self.channels * (self.bits + 1) // 8 + 256


class _Frame(NamedTuple):
    first_sample: int
    samples: int


class Whole(NamedTuple):
    """What the header of a file says, and what is to be changed so that libsndfile reads it whole.

    Attributes:
        pieces: What the file is to be made of, or None where it can stay as it is.
        checksum: The checksum of its samples, or None where it has none.
    """

    pieces: Pieces | None
    checksum: "Checksum | None"


def read_whole(content: Content, name: str) -> Whole:
    """Read the header of a file, and make it tell how many samples there are where it does not.

    Raises:
        AudioError: It breaks off, or its header and its frames disagree.
    """
    info, at = _read_info(content), _first_frame(content)
    if info is None or at is None:
        raise AudioError(f"{name}: breaks off: within its header")
    if (second := content.find(FLAC_MARK + b"\0\0\0\x22", at)) > 0:
        raise AudioError(
            f"{name}: holds several streams of FLAC; the second begins at byte {second}: were files joined? "
            "Take them apart, or join them with ffmpeg"
        )
    first = _parse(content[at : at + 16], 0, info, name)
    if first is None:
        if info.total == 0:
            raise AudioError(f"{name}: holds no samples")
        raise AudioError(f"{name}: breaks off: no frame of FLAC follows its header")
    end = len(content) - (128 if content[len(content) - 128 : len(content) - 125] == b"TAG" else 0)
    last = _last(content, at, end, info, name)
    checksum = Checksum(info.md5, info.bits, name) if any(info.md5) else None
    if info.total:
        if last is not None and last.first_sample + last.samples != info.total:
            raise AudioError(
                f"{name}: its header promises {info.total} samples, but its frames of FLAC hold "
                f"{last.first_sample + last.samples}: it breaks off, or is damaged"
            )
        return Whole(None, checksum)
    if last is None:
        raise AudioError(f"{name}: breaks off: its last frame of FLAC is not whole")
    head = int.from_bytes(content[_TOTAL : _TOTAL + 5], "big") & ~_TOTAL_MASK
    total = (head | last.first_sample + last.samples).to_bytes(5, "big")
    return Whole([content[:_TOTAL], total, (_TOTAL + 5, len(content))], checksum)


class Checksum:
    """The MD5 of the samples of a file as they are decoded, as its header has it.

    Args:
        md5: What the header says.
        bits: Width of the samples.
        name: The clip, for messages.
    """

    def __init__(self, md5: bytes, bits: int, name: str) -> None:
        self._wanted, self._bits, self._name = md5, bits, name
        self._found = hashlib.md5(usedforsecurity=False)

    def add(self, block: NDArray[np.float32]) -> None:
        """Add (S, channels) decoded samples; a float32 holds integers of 24 bits exactly."""
        width = (self._bits + 7) // 8
        for begin in range(0, len(block), _SUMMED):
            samples = np.ldexp(block[begin : begin + _SUMMED], self._bits - 1)
            integers = samples.astype("<i2" if width == 2 else "i1" if width == 1 else "<i4")
            if width == 3:
                integers = integers.reshape(-1, 1).view("u1")[:, :3]
            self._found.update(np.ascontiguousarray(integers).data)

    def check(self) -> None:
        """Check that it is the header's.

        Raises:
            AudioError: It is another.
        """
        if self._found.digest() != self._wanted:
            raise AudioError(
                f"{self._name}: damaged: its samples are not those that were encoded (the MD5 in its header "
                "is another)"
            )


def _read_info(content: Content) -> _Info | None:
    if len(content) < _INFO + 34:
        return None
    packed = int.from_bytes(content[_INFO + 10 : _INFO + 18], "big")
    block, largest = (int.from_bytes(content[at : at + 2], "big") for at in (_INFO, _INFO + 2))
    channels, bits, md5 = (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, content[_INFO + 18 : _INFO + 34]
    return _Info(block, largest, packed >> 44, channels, bits, packed & _TOTAL_MASK, md5)


def _first_frame(content: Content) -> int | None:
    """Return where the blocks of metadata end."""
    at, is_last = len(FLAC_MARK), False
    while not is_last:
        if at + 4 > len(content):
            return None
        is_last = content[at : at + 1] >= b"\x80"
        at += 4 + int.from_bytes(content[at + 1 : at + 4], "big")
    return at


def _parse(content: bytes, at: int, info: _Info, name: str) -> _Frame | None:
    """Read the header of a frame; None where none begins.

    Raises:
        AudioError: It has another sampling rate, width or number of channels than the file.
    """
    head = content[at : at + 16]
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return None
    size = _utf8_size(head[4])
    if size is None or any(byte & 0xC0 != 0x80 for byte in head[5 : 4 + size]):
        return None
    number = head[4] & (0xFF >> size + 1 if size > 1 else 0x7F)
    for byte in head[5 : 4 + size]:
        number = number << 6 | byte & 0x3F
    end = 4 + size
    block_code, rate_code = head[2] >> 4, head[2] & 15
    block = 192 if block_code == 1 else 144 << block_code if block_code < 6 else 1 << block_code
    if block_code in (6, 7):
        width = block_code - 5
        block, end = int.from_bytes(head[end : end + width], "big") + 1, end + width
    rate = _RATES.get(rate_code, info.rate)
    if rate_code in (12, 13, 14):
        width = 1 if rate_code == 12 else 2
        rate = int.from_bytes(head[end : end + width], "big") * {12: 1000, 13: 1, 14: 10}[rate_code]
        end += width
    if block_code == 0 or rate_code == 15 or end >= len(head) or _crc8(head[:end]) != head[end]:
        return None
    channels, bits = head[3] >> 4, _BITS.get(head[3] >> 1 & 7, info.bits)
    told = (rate, channels + 1 if channels < 8 else 2, bits)
    if told != (info.rate, info.channels, info.bits):
        raise AudioError(
            f"{name}: its header says {info.rate} Hz, {info.channels} channels of {info.bits} bits, and a "
            f"frame of FLAC says {told[0]} Hz, {told[1]} channels of {told[2]} bits: damaged"
        )
    # Blocks of one size are counted, those of several by their first sample.
    first = number if head[1] & 1 else number * info.block
    return _Frame(first, block)


def _last(content: Content, begin: int, end: int, info: _Info, name: str) -> _Frame | None:
    """Return the last frame, if the file ends where it does.

    It is the one that holds as many samples as the header promises, or whose checksum is the file's last two
    bytes.
    """
    tail = content[max(begin, end - info.largest_frame) : end]
    at = len(tail) - 8
    while (at := tail.rfind(b"\xff", 0, max(at + 1, 0))) >= 0:
        try:
            frame = _parse(tail, at, info, name)
        except AudioError:
            frame = None  # what looks like one within another
        if frame is not None:
            whole = frame.first_sample + frame.samples == info.total
            if whole or _crc16(tail[at:-2]) == int.from_bytes(tail[-2:], "big"):
                return frame
        at -= 1
    return None


def _utf8_size(byte: int) -> int | None:
    """Return the bytes of a number that is written as UTF-8 writes characters."""
    ones = 8 - (~byte & 0xFF).bit_length()
    return 1 if ones == 0 else ones if 2 <= ones <= 7 else None


@cache
def _table(polynomial: int, bits: int) -> list[int]:
    top, mask = 1 << bits - 1, (1 << bits) - 1
    table = []
    for value in range(256):
        value <<= bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
        table.append(value)
    return table


def _crc8(data: bytes) -> int:
    table, value = _table(0x07, 8), 0
    for byte in data:
        value = table[value ^ byte]
    return value


def _crc16(data: bytes) -> int:
    table, value = _table(0x8005, 16), 0
    for byte in data:
        value = (value << 8 & 0xFF00) ^ table[value >> 8 ^ byte]
    return value
