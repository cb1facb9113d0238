"""Ogg pages (RFC 3533): whether a stream is whole.

libsndfile takes an Ogg file that breaks off for a shorter one, passes over pages whose checksum is wrong, and
of several streams that were joined it reads the first.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from kikimimi.data.content import Content, Pieces
from kikimimi.errors import AudioError

PAGE_HEADER = struct.Struct("<4sBBqIIIB")
"""Capture pattern, version, flags, granule position, serial and sequence number, CRC, number of segments."""
CRC_AT = 22
CAPTURE = b"OggS"
_BEGINS, _ENDS = 2, 4
_FLAC, _FLAC_HEAD = b"\x7fFLAC", 9
"""How a stream of FLAC begins, and what comes before its own mark [bytes]: version, number of headers."""
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Page(NamedTuple):
    """A page of a file.

    Attributes:
        fields: The values of `PAGE_HEADER`.
        lacing: Sizes of the segments [bytes].
        body: What they hold.
        begin: Place in the file [bytes].
        end: The place after it [bytes].
    """

    fields: tuple[bytes, int, int, int, int, int, int, int]
    lacing: bytes
    body: bytes
    begin: int
    end: int


def crc(page: bytes) -> int:
    """Return the checksum of a page whose own checksum is set to 0 (RFC 3533, section 6).

    Its polynomial is that of zlib's CRC-32, with the bits the other way round and nothing inverted.
    """
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def pages(content: Content, name: str) -> Iterator[Page]:
    """Yield the pages of a file.

    Raises:
        AudioError: It breaks off within a page, or something else stands where one should begin.
    """
    at = 0
    while at < len(content):
        if content[at : at + 4] != CAPTURE[: len(content) - at]:
            if content.is_padding(at):
                return  # padding
            raise AudioError(f"{name}: damaged: at byte {at} of {len(content)} a page of Ogg should begin")
        lacing_at = at + PAGE_HEADER.size
        fields = PAGE_HEADER.unpack(content[at:lacing_at]) if lacing_at <= len(content) else None
        lacing = content[lacing_at : lacing_at + fields[-1]] if fields is not None else b""
        begin = lacing_at + len(lacing)
        end = begin + sum(lacing)
        if fields is None or len(lacing) < fields[-1] or end > len(content):
            raise AudioError(f"{name}: breaks off within the page of Ogg that begins at byte {at}")
        yield Page(fields, lacing, content[begin:end], at, end)
        at = end


def check_whole(content: Content, name: str) -> Pieces | None:
    """Check that a file holds one stream to its end.

    Returns:
        The pieces of a FLAC file, if the stream is FLAC, which libsndfile reads only so; else None.

    Raises:
        AudioError: It breaks off, is damaged, or holds several streams.
    """
    flags, serial, number = _ENDS, None, 0
    bodies: list[tuple[int, int]] = []
    is_flac = False
    for page in pages(content, name):
        _, _, now, _, of, sequence, told, _ = page.fields
        if serial is not None and (of != serial or flags & _ENDS):
            raise AudioError(
                f"{name}: holds several streams of Ogg; the second begins at byte {page.begin}: were files "
                "joined? Take them apart, or join them with ffmpeg"
            )
        if serial is not None and sequence != number + 1:
            raise AudioError(f"{name}: damaged: pages of Ogg are missing before byte {page.begin}")
        raw = content[page.begin : page.end]
        if crc(raw[:CRC_AT] + bytes(4) + raw[CRC_AT + 4 :]) != told:
            raise AudioError(f"{name}: damaged: the page of Ogg at byte {page.begin} has another checksum")
        if serial is None:
            is_flac = page.body.startswith(_FLAC)
        if is_flac:
            bodies.append((page.end - len(page.body), page.end))
        flags, serial, number = now, of, sequence
    if not flags & _ENDS:
        raise AudioError(f"{name}: breaks off: its last page of Ogg is not the end of the stream")
    if not is_flac:
        return None
    (begin, end), *others = bodies
    return [(begin + _FLAC_HEAD, end), *others]  # frames follow one another as they do in a FLAC file
