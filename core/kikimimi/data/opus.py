"""Opus in Ogg, for speech a sixth of the size of FLAC: the same samples always give the same bytes.

libsndfile encodes. It gives each stream a random serial number, so that no two files are equal, and pads its
comments; both are replaced here. Encoding takes a hundred times as long as FLAC's: about a minute of one core
for 20 minutes of speech. Ogg: RFC 3533. Opus in Ogg: RFC 7845.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kikimimi.data.audio import memory_file, whole, within_full_scale
from kikimimi.errors import RequestError

OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
"""Sampling rates that Opus encodes [Hz]."""

_SERIAL = 0x6B696B69
_TAGS = b"OpusTags" + struct.pack("<I", 8) + b"kikimimi" + struct.pack("<I", 0)  # vendor, no comments
_HEADER = struct.Struct("<4sBBqIIIB")  # capture, version, type, granule, serial, sequence, CRC, segments
_CRC_AT = 22
_BLOCK = 1 << 16  # samples per write
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_opus_rate(sample_rate: int) -> None:
    """Check that Opus encodes a sampling rate [Hz].

    Raises:
        RequestError: It does not.
    """
    if sample_rate not in OPUS_RATES:
        rates = ", ".join(f"{rate}" for rate in OPUS_RATES)
        raise RequestError(f"Opus has no sampling rate of {sample_rate} Hz; it has {rates}")


def encode_opus(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    """Encode (S,) mono float32 as Opus in Ogg. Decoding gives S samples again, in time with these.

    What is too loud is turned down (see `within_full_scale`).

    Raises:
        RequestError: Opus has no such sampling rate (`OPUS_RATES`).
    """
    import soundfile

    check_opus_rate(sample_rate)
    samples = within_full_scale(samples)
    with memory_file() as held:
        options = {"format": "OGG", "subtype": "OPUS", "closefd": False}
        with soundfile.SoundFile(held, "w", sample_rate, 1, **options) as file:
            for begin in range(0, len(samples), _BLOCK):
                file.write(samples[begin : begin + _BLOCK])
        return b"".join(_steady(whole(held)))


def ogg_crc(page: bytes) -> int:
    """Return the checksum of an Ogg page whose own checksum is set to 0 (RFC 3533, section 6).

    Its polynomial is that of zlib's CRC-32, with the bits the other way round and nothing inverted.
    """
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _steady(stream: bytes) -> Iterator[bytes]:
    at, number = 0, 0
    while at < len(stream):
        capture, version, kind, granule, _, sequence, _, count = _HEADER.unpack_from(stream, at)
        lacing = stream[at + _HEADER.size : at + _HEADER.size + count]
        begin = at + _HEADER.size + count
        at = begin + sum(lacing)
        body = stream[begin:at]
        assert capture == b"OggS"
        assert sequence == number
        if number == 1:  # the comments, alone on their page
            assert body.startswith(b"OpusTags")
            assert lacing[-1] < 255
            body, lacing = _TAGS, bytes([len(_TAGS)])
        header = _HEADER.pack(capture, version, kind, granule, _SERIAL, sequence, 0, len(lacing))
        page = header + lacing + body
        yield page[:_CRC_AT] + struct.pack("<I", ogg_crc(page)) + page[_CRC_AT + 4 :]
        number += 1
