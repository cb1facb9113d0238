"""Ogg files that break off, are damaged or joined are refused; whole ones are read as they are."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from kikimimi.data import ogg
from kikimimi.data.audio import decode, probe
from kikimimi.data.content import Content
from kikimimi.errors import AudioError

pytestmark = pytest.mark.fault(
    "Sound: Ogg that breaks off or was joined",
    "refused: the end of the stream, checksums and page numbers are required",
)


def encoded(subtype: str, seconds: float = 4.0) -> bytes:
    wave = np.random.default_rng(0).normal(0, 0.2, round(16_000 * seconds))
    file = io.BytesIO()
    soundfile.write(file, wave, 16_000, format="OGG", subtype=subtype)
    return file.getvalue()


OPUS, VORBIS = encoded("OPUS"), encoded("VORBIS")
KINDS = pytest.mark.parametrize("content", [OPUS, VORBIS], ids=["opus", "vorbis"])


def with_number(page: ogg.Page, **changed: int) -> bytes:
    """Return a page with another sequence number or other flags, and the checksum that belongs to it."""
    capture, version, flags, granule, serial, sequence, _, count = page.fields
    flags, sequence = changed.get("flags", flags), changed.get("sequence", sequence)
    header = ogg.PAGE_HEADER.pack(capture, version, flags, granule, serial, sequence, 0, count)
    made = header + page.lacing + page.body
    return made[: ogg.CRC_AT] + struct.pack("<I", ogg.crc(made)) + made[ogg.CRC_AT + 4 :]


@KINDS
def test_cut_anywhere_it_is_refused(content: bytes) -> None:
    borders = [page.end for page in ogg.pages(Content(content), "clip")][:-1]
    assert len(borders) > 3
    for end in (*borders, *(len(content) * share // 40 for share in range(1, 40)), len(content) - 1):
        with pytest.raises(AudioError, match=r"clip: (breaks off|cannot be decoded)"):
            decode(content[:end], sample_rate=16_000, name="clip")
        with pytest.raises(AudioError, match=r"clip: (breaks off|cannot be decoded)"):
            probe(content[:end], "clip")


@KINDS
def test_whole_ones_are_read(content: bytes) -> None:
    expected, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    assert np.array_equal(decode(content, sample_rate=rate, name="clip"), expected)
    assert np.array_equal(decode(content + bytes(100), sample_rate=rate, name="clip"), expected)


@KINDS
def test_joined_files_are_refused(content: bytes) -> None:
    for joined in (content + content, content + OPUS):
        with pytest.raises(
            AudioError, match=f"several streams of Ogg; the second begins at byte {len(content)}"
        ):
            decode(joined, sample_rate=16_000, name="clip")


@KINDS
def test_damage_is_told_with_its_place(content: bytes) -> None:
    page = list(ogg.pages(Content(content), "clip"))[-2]
    flipped = bytearray(content)
    flipped[page.end - 5] ^= 1
    with pytest.raises(
        AudioError, match=f"damaged: the page of Ogg at byte {page.begin} has another checksum"
    ):
        decode(bytes(flipped), sample_rate=16_000, name="clip")
    lost = content[: page.begin] + content[page.end :]
    with pytest.raises(AudioError, match=f"damaged: pages of Ogg are missing before byte {page.begin}"):
        decode(lost, sample_rate=16_000, name="clip")
    with pytest.raises(AudioError, match=f"at byte {page.end} of .* a page of Ogg should begin"):
        decode(content[: page.end] + b"junk" + content[page.end :], sample_rate=16_000, name="clip")


@KINDS
def test_a_last_page_that_is_not_the_end(content: bytes) -> None:
    *before, last = ogg.pages(Content(content), "clip")
    open_ended = content[: before[-1].end] + with_number(last, flags=0)
    with pytest.raises(AudioError, match="breaks off: its last page of Ogg is not the end of the stream"):
        decode(open_ended, sample_rate=16_000, name="clip")
