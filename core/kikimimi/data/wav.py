"""RIFF WAVE files whose sizes were never filled in: a program that writes into a pipe cannot go back."""

import struct

RIFF_MARK = b"RIFF"
_PLACEHOLDERS = (1 << 30, 2_000_000_000)
"""What programs write in place of a size that they do not know, beside numbers that no file reaches."""
_NO_SIZE = 0x7F000000
_AROUND = 64
"""Bytes of a header that are added to such a number, or taken from it."""


def is_placeholder(size: int) -> bool:
    """Tell whether a size [bytes] stands for one that was not known."""
    return size >= _NO_SIZE or any(abs(size - number) <= _AROUND for number in _PLACEHOLDERS)


def filled(content: bytes) -> bytes:
    """Fill in the size of the samples where it is 0 and they follow, to the end of the file."""
    at = 12
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        begin = at + 8
        if kind == b"data":
            left = len(content) - begin
            if size or not left or _are_chunks(content, begin):
                return content
            return b"".join([content[: at + 4], struct.pack("<I", left), content[begin:]])
        at = begin + size + size % 2
    return content


def _are_chunks(content: bytes, at: int) -> bool:
    """Tell whether nothing but further chunks follows: then there are no samples."""
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        if not kind.isalnum():
            return False
        at += 8 + size + size % 2
    return at == len(content)
