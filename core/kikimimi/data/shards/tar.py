"""The entries of an uncompressed tar, in order: the part of POSIX ustar, pax and GNU that shards are made of.

`tarfile` parses a header, and no more: it takes a damaged one for the end of the archive, and going through
an archive costs it more than reading the records. Formats: POSIX.1-2001 (ustar, pax), and GNU's long names.
"""

import tarfile
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

BLOCK = 512
"""Headers and contents begin at multiples of this [bytes]."""

_LONGEST_NAME = 1 << 20  # bytes of a long name or of pax records
_ZEROS = bytes(BLOCK)
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_REGULAR = (b"0", b"\0")
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders: their size says nothing


class TarEntry(NamedTuple):
    """An entry of a tar.

    Attributes:
        name: Name in the tar; what is not UTF-8 is written with backslashes.
        offset: Where its first header is [bytes].
        end: Where the next header begins [bytes].
        size: Length of its content [bytes].
        content: Its bytes; empty where it is larger than what is read of such a member.
        regular: Whether it is a plain file: no link, no device, not sparse.
    """

    name: str
    offset: int
    end: int
    size: int
    content: bytes
    regular: bool


class BrokenTarError(ValueError):
    """The tar cannot be read any further."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset, self.reason = offset, reason


def unlimited(_name: str) -> int:
    """Return that a member of any size is read."""
    return 1 << 62


def read_entries(
    file: IO[bytes], *, start: int = 0, whole: bool = False, largest: Callable[[str], int] = unlimited
) -> Iterator[TarEntry]:
    """Read the entries of a tar, or of a piece of one, in order. Folders are passed over.

    Args:
        file: The file, open for reading at the start of the tar or of the piece.
        start: Where in the tar the piece begins [bytes].
        whole: Whether it is a whole tar, which has to end as a tar does.
        largest: Returns the largest size of a member that is read, by its name [bytes].

    Raises:
        BrokenTarError: A header is damaged, an entry breaks off, or the end is missing.
    """
    size = file.seek(0, 2)
    file.seek(0)
    here = 0
    while here < size:
        offset, name = here, None
        content_size: int | None = None
        while True:
            block = file.read(BLOCK)
            if block == _ZEROS and here == offset:
                if whole:
                    _check_end(file, start, here)
                return
            header = _header(block, start + here)
            here += BLOCK
            kind = header.type
            length = header.size if content_size is None else content_size
            if kind in _WITHOUT_CONTENT:
                length = 0
            end = here + -(-length // BLOCK) * BLOCK
            if end > size:
                shown = name or header.name
                raise BrokenTarError(start + offset, f"member {shown!r} breaks off; the shard is truncated")
            if kind not in (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
                break
            if length > _LONGEST_NAME:
                raise BrokenTarError(start + offset, f"a header of {length} bytes: damaged")
            content = file.read(end - here)[:length]
            here = end
            if kind == _LONG_NAME:
                name = _text(content)
            elif kind in (_PAX, _PAX_GLOBAL):
                records = _pax(content, start + offset)
                if any(key.startswith("GNU.sparse") for key in records) or (
                    kind == _PAX_GLOBAL and {"path", "size"} & set(records)
                ):
                    raise BrokenTarError(
                        start + offset, "a sparse member, or a name or size for all that follow"
                    )
                name = records.get("path", name)
                if "size" in records:
                    content_size = _decimal(records["size"], start + offset)
        name = header.name if name is None else name
        regular = kind in _REGULAR
        if 0 < length <= (largest(name) if regular else 0):
            content = file.read(length)  # without the padding: cutting it off would copy what is large
        else:
            content = b""
        file.seek(end)
        here = end
        if kind == tarfile.DIRTYPE or (kind == tarfile.AREGTYPE and name.endswith("/")):
            continue
        yield TarEntry(name, start + offset, start + end, length, content, regular)
    if whole:
        raise BrokenTarError(start + here, "the shard stops without the mark that ends a tar: truncated?")


def _header(block: bytes, offset: int) -> tarfile.TarInfo:
    if len(block) < BLOCK:
        raise BrokenTarError(offset, "a header breaks off; the shard is truncated")
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        raise _damaged(offset) from error
    if header.size < 0:
        raise _damaged(offset)
    if block[257:263] != b"ustar\0":  # GNU keeps times where POSIX has the beginning of a long name
        header.name = _text(block[:100])
    return header


def _damaged(offset: int) -> BrokenTarError:
    if offset == 0:
        return BrokenTarError(0, "not an uncompressed tar, or its first header is damaged")
    return BrokenTarError(offset, "a damaged header; what follows it cannot be read")


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _pax(content: bytes, offset: int) -> dict[str, str]:
    """Take pax records (``LENGTH KEY=VALUE`` and a newline) apart."""
    records: dict[str, str] = {}
    while content:
        digits, space, _ = content.partition(b" ")
        length = _decimal(digits.decode("ascii", "replace"), offset) if space and len(digits) < 8 else 0
        record, content = content[len(digits) + 1 : length], content[length:]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or len(digits) + 1 + len(record) != length:
            raise BrokenTarError(offset, "a damaged pax header; what follows it cannot be read")
        records[key.decode("utf-8", "backslashreplace")] = value[:-1].decode("utf-8", "backslashreplace")
    return records


def _decimal(digits: str, offset: int) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise BrokenTarError(offset, "a damaged pax header; what follows it cannot be read")
    return int(digits)


def _check_end(file: IO[bytes], start: int, end: int) -> None:
    file.seek(end)
    zeros = 0
    while chunk := file.read(1 << 20):
        if chunk.strip(b"\0"):
            raise BrokenTarError(start + end, "a damaged header; what follows it cannot be read")
        zeros += len(chunk)
    if zeros < 2 * BLOCK:
        raise BrokenTarError(start + end, "the shard stops without the mark that ends a tar: truncated?")
