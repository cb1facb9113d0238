"""Files that programs wrote into a pipe, where no size can be filled in afterwards: whole, or refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kikimimi import Segment
from kikimimi.data import flac, ogg
from kikimimi.data.audio import decode, decode_whole, encode_audio, probe
from kikimimi.data.content import Content, made_of, whole
from kikimimi.errors import AudioError

pytestmark = pytest.mark.fault(
    "Sound: sizes that were never filled in, headers that disagree", "read to the end, or refused by name"
)

TOTAL = 8 + 13


def wave(samples: int = 40_000, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (samples, channels))


def encoded(kind: str, subtype: str = "PCM_16", rate: int = 16_000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave(channels=channels), rate, format=kind, subtype=subtype)
    return file.getvalue()


def lengthless(content: bytes) -> bytes:
    """Take the number of samples out of a FLAC file's header."""
    return content[:TOTAL] + bytes([content[TOTAL] & 0xF0]) + bytes(4) + content[TOTAL + 5 :]


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 96_000, 37_000, 12_345])
@pytest.mark.parametrize(("subtype", "channels"), [("PCM_16", 1), ("PCM_24", 2), ("PCM_S8", 1)])
def test_flac_of_unknown_length(rate: int, subtype: str, channels: int) -> None:
    content = encoded("FLAC", subtype, rate, channels)
    with Content(lengthless(content)) as left_out:
        pieces, _ = flac.read_whole(left_out, "clip")
        assert pieces is not None
        with made_of(pieces, left_out) as made:
            assert whole(made) == content
    assert np.array_equal(
        decode_whole(lengthless(content), name="clip")[0], decode_whole(content, name="clip")[0]
    )
    tagged = lengthless(content) + b"TAG" + bytes(125)
    assert probe(tagged, "clip") == (40_000 / rate, rate, channels)


def test_flac_of_unknown_length_that_breaks_off() -> None:
    content = lengthless(encoded("FLAC"))
    for end in range(20, len(content), 601):
        with pytest.raises(AudioError, match=r"clip: (breaks off|holds no samples)"):
            decode_whole(content[:end], name="clip")
        with pytest.raises(AudioError, match=r"clip: (breaks off|holds no samples)"):
            probe(content[:end], "clip")


def test_joined_flac_is_refused() -> None:
    content = encoded("FLAC")
    for first in (content, lengthless(content)):
        with pytest.raises(AudioError, match=f"the second begins at byte {len(content)}: were files joined"):
            decode_whole(first + content, name="clip")


def test_a_rate_that_the_frames_do_not_have() -> None:
    """It would be resampled to nonsense."""
    content = bytearray(encoded("FLAC", rate=16_000))
    packed = int.from_bytes(content[18:26], "big")
    content[18:26] = (packed & ((1 << 44) - 1) | 44_100 << 44).to_bytes(8, "big")
    said = "its header says 44100 Hz, 1 channels of 16 bits, and a frame of FLAC says 16000 Hz"
    with pytest.raises(AudioError, match=said):
        decode_whole(bytes(content), name="clip")


SIZES = (
    0,
    0xFFFFFFFF,
    0x7FFFFFFF,
    0x80000000,
    0x7FFFF000,
    0x7F000008,
    2_000_000_000,
    1 << 30,
    (1 << 30) - 36,
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("outer", ["none", "the same", "right"])
def test_wav_with_a_size_that_was_never_filled_in(size: int, outer: str, tmp_path: Path) -> None:
    content = bytearray(encoded("WAV"))
    expected, _ = decode_whole(bytes(content), name="clip")
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    if outer != "right":
        content[4:8] = struct.pack("<I", 0 if outer == "none" else min(size + 36, 0xFFFFFFFF))
    assert np.array_equal(decode_whole(bytes(content), name="clip")[0], expected)
    assert probe(bytes(content), "clip") == (2.5, 16_000, 1)
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    assert np.array_equal(decode_whole(path, name="clip")[0], expected)


@pytest.mark.parametrize("size", [79_999, 100_000, 1 << 29, (1 << 30) + 500, 1_999_000_000])
def test_wav_that_breaks_off(size: int) -> None:
    content = bytearray(encoded("WAV"))
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    cut = bytes(content[:-1000])
    with pytest.raises(AudioError, match=f"breaks off: its header promises {size} bytes, but only"):
        decode_whole(cut, name="clip")


def test_wav_without_samples_has_none() -> None:
    content = bytearray(encoded("WAV"))
    at = content.index(b"data") + 4
    content[at : at + 4] = bytes(4)
    for rest in (b"", b"LIST" + struct.pack("<I", 4) + b"INFO"):
        with pytest.raises(AudioError, match="holds no samples"):
            decode_whole(bytes(content[: at + 4]) + rest, name="clip")


@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW", "MS_ADPCM"])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_headers_that_agree_are_taken(kind: str, subtype: str, channels: int) -> None:
    if kind == "WAVEX" and subtype == "MS_ADPCM":
        pytest.skip("there is none")
    samples = np.random.default_rng(0).normal(0, 0.1, (8_000, channels)).astype(np.float32)
    content = encode_audio(samples, 16_000, kind=kind, subtype=subtype)
    count = len(decode_whole(content, name="clip")[0])
    assert count >= 8_000
    for rest in (
        b"LIST" + struct.pack("<I", 4) + b"INFO",
        b"id3 " + struct.pack("<I", 3) + b"abc\0",
        bytes(20),
    ):
        longer = bytearray(content + rest)
        longer[4:8] = struct.pack("<I", len(longer) - 8)
        assert len(decode_whole(bytes(longer), name="clip")[0]) == count


@pytest.mark.parametrize(
    ("offset", "code", "value", "said"),
    [
        (
            8,
            "<I",
            48_768,
            "48768 Hz, 1 channels of 16 bits, but 2 bytes for a sample of all channels and 32000",
        ),
        (6, "<H", 2, "2 channels of 16 bits, but 2 bytes"),
        (18, "<H", 24, "1 channels of 24 bits, but 2 bytes"),
    ],
)
def test_a_wav_header_that_disagrees_with_itself(offset: int, code: str, value: int, said: str) -> None:
    content = bytearray(encoded("WAV"))
    struct.pack_into(code, content, content.index(b"fmt ") + 4 + offset, value)
    with pytest.raises(AudioError, match=said):
        decode_whole(bytes(content), name="clip")


@pytest.mark.parametrize("size", [0, 0xBC115E00])
def test_a_wav_that_is_cut_and_whose_size_is_lost_is_not_shorter(size: int) -> None:
    content = bytearray(encoded("WAV"))
    at = content.find(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    assert len(decode(bytes(content), sample_rate=16_000, name="a")) == 40_000
    with pytest.raises(AudioError, match=r"^a: breaks off, or its header .* of 80044 bytes, but only 79944"):
        decode(bytes(content[:-100]), sample_rate=16_000, name="a")


def test_a_wav_whose_size_is_damaged_is_not_shorter() -> None:
    content = bytearray(encoded("WAV"))
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", 16_000)
    with pytest.raises(AudioError, match="promises 16000 bytes of samples, but 64000 more follow"):
        decode_whole(bytes(content), name="clip")


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
def test_flac_is_held_to_its_checksum(subtype: str, channels: int) -> None:
    content = encoded("FLAC", subtype, channels=channels)
    assert any(content[26:42])
    expected, _ = decode_whole(content, name="clip")
    for md5 in (b"\x01" + content[27:42], bytes([content[26] ^ 1]) + content[27:42]):
        with pytest.raises(AudioError, match="clip: damaged: its samples are not those that were encoded"):
            decode_whole(content[:26] + md5 + content[42:], name="clip")
    none = content[:26] + bytes(16) + content[42:]  # a program into a pipe has none
    assert np.array_equal(decode_whole(none, name="clip")[0], expected)
    other = content[:26] + b"\x01" + content[27:]
    assert len(decode_whole(Segment(other, 0.5, 1.0), name="clip")[0]) == 16_000  # of all


@pytest.mark.parametrize("total", [1, 39_999, 40_001, 36_864, 4096, 50_000])
@pytest.mark.parametrize("md5", [True, False])
def test_flac_whose_header_tells_another_number_of_samples(total: int, md5: bool) -> None:
    content = bytearray(encoded("FLAC"))
    content[TOTAL + 1 : TOTAL + 5] = total.to_bytes(4, "big")
    if not md5:
        content[26:42] = bytes(16)
    said = f"clip: its header promises {total} samples, but its frames of FLAC hold 40000"
    for read in (lambda: decode_whole(bytes(content), name="clip"), lambda: probe(bytes(content), "clip")):
        with pytest.raises(AudioError, match=said):
            read()


def ogg_flac(content: bytes, *, total: bool = True, ends: bool = True) -> bytes:
    """Put a FLAC file into Ogg, as https://xiph.org/flac/ogg_mapping.html tells."""
    native = content if total else lengthless(content)
    parts = [b"\x7fFLAC\x01\x00\x00\x01" + native[:42]]
    rest = native[42:]
    parts += [rest[begin : begin + 4000] for begin in range(0, len(rest), 4000)]
    pages = b""
    for number, part in enumerate(parts):
        flags = 2 if number == 0 else 4 if ends and number == len(parts) - 1 else 0
        lacing = bytes([255] * (len(part) // 255) + [len(part) % 255])
        head = ogg.PAGE_HEADER.pack(ogg.CAPTURE, 0, flags, 0, 7, number, 0, len(lacing)) + lacing
        crc = struct.pack("<I", ogg.crc(head + part))
        pages += head[: ogg.CRC_AT] + crc + head[ogg.CRC_AT + 4 :] + part
    return pages


@pytest.mark.parametrize("total", [True, False])
@pytest.mark.parametrize(("subtype", "channels"), [("PCM_16", 1), ("PCM_24", 2)])
def test_flac_in_ogg(total: bool, subtype: str, channels: int, tmp_path: Path) -> None:
    content = encoded("FLAC", subtype, channels=channels)
    path = tmp_path / "clip.oga"
    path.write_bytes(ogg_flac(content, total=total))
    expected, rate = decode_whole(content, name="clip")
    for source in (path, path.read_bytes()):
        samples, found = decode_whole(source, name="clip")
        assert found == rate
        assert np.array_equal(samples, expected)
        assert probe(source, "clip") == (2.5, 16_000, channels)
        part, _ = decode_whole(Segment(source, 1.0, 0.5), name="clip")
        assert np.array_equal(part, expected[16_000:24_000])


def test_flac_in_ogg_that_breaks_off() -> None:
    content = encoded("FLAC")
    for end in range(30, len(whole_file := ogg_flac(content)), 977):
        with pytest.raises(AudioError, match="clip: breaks off"):
            decode_whole(whole_file[:end], name="clip")
    with pytest.raises(AudioError, match="not the end of the stream"):
        decode_whole(ogg_flac(content, ends=False), name="clip")
    with pytest.raises(AudioError, match="clip: "):  # the end is marked, and samples are missing
        decode_whole(ogg_flac(content[: len(content) // 2]), name="clip")


def test_caf_with_a_size_that_was_never_filled_in() -> None:
    content = encoded("CAF")
    expected, _ = decode_whole(content, name="clip")
    at = content.index(b"data")
    begin = at + 12  # the samples go on to the end
    open_ended = content[: at + 4] + struct.pack(">q", -1) + content[begin : begin + 4 + 80_000]
    assert np.array_equal(decode_whole(open_ended, name="clip")[0], expected)
    assert probe(open_ended, "clip") == (2.5, 16_000, 1)
    empty = content[: at + 4] + struct.pack(">q", 4) + content[begin : begin + 4 + 80_000]  # SoX's
    with pytest.raises(AudioError, match="clip: its header does not tell its length"):
        decode_whole(empty, name="clip")
    for cut in (begin + 100, begin + 40_000, begin + 79_000):
        with pytest.raises(AudioError, match="clip: breaks off: its header promises 80004 bytes, but only"):
            decode_whole(content[:cut], name="clip")


def test_rf64_with_sizes_that_were_never_filled_in() -> None:
    content = bytearray(encoded("RF64"))
    expected, _ = decode_whole(bytes(content), name="clip")
    content[20:44] = bytes(24)
    assert np.array_equal(decode_whole(bytes(content), name="clip")[0], expected)


@pytest.mark.parametrize("size", [0, (1 << 31) - 1, 1 << 40])
@pytest.mark.parametrize("known", ["file", "frames"])
def test_rf64_without_a_size_that_breaks_off(known: str, size: int) -> None:
    content = bytearray(encoded("RF64", channels=2))
    expected, _ = decode_whole(bytes(content), name="clip")
    content[28:36] = struct.pack("<Q", size)
    content[slice(36, 44) if known == "file" else slice(20, 28)] = bytes(8)
    assert np.array_equal(decode_whole(bytes(content), name="clip")[0], expected)
    with pytest.raises(AudioError, match=rf"^clip: breaks off, .* promises a file of {len(content)} bytes, "):
        decode_whole(bytes(content[: len(content) // 2]), name="clip")


@pytest.mark.parametrize("size", [-1, (1 << 63) - 1, 0, 23, 24])
def test_w64_with_sizes_that_were_never_filled_in(size: int) -> None:
    content = bytearray(encoded("W64"))
    expected, _ = decode_whole(bytes(content), name="clip")
    at = content.index(b"data\xf3\xac") + 16
    content[16:24] = struct.pack("<q", -1)
    content[at : at + 8] = struct.pack("<q", size)
    if size in (-1, (1 << 63) - 1):
        assert np.array_equal(decode_whole(bytes(content), name="clip")[0], expected)
    else:  # SoX writes its header once more, among the samples
        with pytest.raises(AudioError, match="clip: its header does not tell its length"):
            decode_whole(bytes(content), name="clip")


@pytest.mark.parametrize("kind", ["AIFF", "AU"])
def test_aiff_and_au_with_sizes_that_were_never_filled_in(kind: str) -> None:
    content = bytearray(encoded(kind))
    expected, _ = decode_whole(bytes(content), name="clip")
    if kind == "AU":
        content[8:12] = b"\xff" * 4
    else:
        at = content.index(b"SSND") + 4
        content = content[: at + 4 + 8 + 80_000]
        content[4:8] = content[at : at + 4] = bytes(4)
        frames = content.index(b"COMM") + 10
        content[frames : frames + 4] = bytes(4)
    assert np.array_equal(decode_whole(bytes(content), name="clip")[0], expected)


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF"])
def test_joined_files_are_refused(kind: str) -> None:
    content = encoded(kind)
    assert len(decode_whole(content, name="clip")[0]) == 40_000
    with pytest.raises(AudioError, match=rf"several files \(.*; the second begins at byte {len(content)}:"):
        decode_whole(content + content, name="clip")


def test_joined_wav_files_of_unknown_length_are_refused() -> None:
    content = bytearray(encoded("WAV"))
    at = content.index(b"data") + 4
    content[at : at + 4] = content[4:8] = b"\xff" * 4
    with pytest.raises(AudioError, match=f"the second begins at byte {len(content)}"):
        decode_whole(bytes(content + content), name="clip")


def test_nist_sphere_that_breaks_off() -> None:
    content = encoded("NIST")
    assert len(decode_whole(content, name="clip")[0]) == 40_000
    for end in range(1100, len(content), 3001):
        with pytest.raises(AudioError, match="clip: breaks off: its header promises 80000 bytes, but only"):
            probe(content[:end], "clip")


@pytest.mark.parametrize("kind", ["WAV", "RF64", "AU", "NIST"])
def test_samples_after_those_that_a_header_promises(kind: str) -> None:
    """A header that a program wrote when it began, and never again."""
    content = encoded(kind)
    with pytest.raises(AudioError, match=r"clip: its header promises \d+ bytes of samples, but 4000 more"):
        probe(content + content[-4000:], "clip")
    padded = content + bytes(4000)
    if kind == "WAV":
        padded += b"" if len(padded) % 2 == 0 else b"\0"
        tagged = content + b"LIST" + struct.pack("<I", 2000) + bytes(2000)
        assert len(decode_whole(tagged, name="clip")[0]) == 40_000
    if kind != "NIST":  # which has nothing but samples
        assert len(decode_whole(padded, name="clip")[0]) == 40_000


def test_headers_that_contradict_themselves() -> None:
    content = bytearray(encoded("WAV"))
    at = content.index(b"fmt ") + 10
    content[at : at + 2] = struct.pack("<H", 2)
    with pytest.raises(
        AudioError, match="clip: damaged: its header disagrees with itself: 16000 Hz, 2 channels of 16 bits"
    ):
        decode_whole(bytes(content), name="clip")
    aiff = bytearray(encoded("AIFF"))
    at = aiff.index(b"COMM") + 10
    aiff[at : at + 4] = struct.pack(">I", 20_000)
    with pytest.raises(AudioError, match="clip: damaged: its header promises 40000 bytes of samples"):
        decode_whole(bytes(aiff), name="clip")


def test_w64_ends_where_its_samples_do() -> None:
    """libsndfile takes what follows for more of them."""
    content = encoded("W64")
    expected, _ = decode_whole(content, name="clip")
    chunk = b"list" + bytes(12) + struct.pack("<q", 24 + 4000) + bytes(range(250)) * 16
    outer = content[:16] + struct.pack("<q", len(content) + len(chunk)) + content[24:]
    for whole_file in (content + bytes(700), content + bytes(range(1, 200)), outer + chunk):
        assert np.array_equal(decode_whole(whole_file, name="clip")[0], expected)
    with pytest.raises(AudioError, match="promises 80000 bytes of samples, but 4000 more follow"):
        probe(content + content[-4000:], "clip")


def in_wav(frames: bytes, size: int | None = None, code: int = 0x55) -> bytes:
    form = struct.pack("<HHIIHHHHIHHH", code, 1, 16_000, 4000, 1, 0, 12, 1, 2, 288, 1, 1393)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"fact" + struct.pack("<II", 4, 12_345)
    data = struct.pack("<I", len(frames) if size is None else size) + frames
    return b"RIFF" + struct.pack("<I", len(chunks) + 4 + len(data)) + chunks + b"data" + data


@pytest.mark.parametrize("size", [None, 0, 0xFFFFFFFF])
def test_mp3_in_wav(size: int | None) -> None:
    """Its frames are counted: what the chunks around them say of its length is a guess."""
    mp3 = encoded("MP3", "MPEG_LAYER_III")
    expected, _ = decode_whole(mp3, name="clip")
    assert np.array_equal(decode_whole(in_wav(mp3, size), name="clip")[0], expected)
    with pytest.raises(AudioError, match="clip: breaks off"):
        decode_whole(in_wav(mp3, size)[:-700], name="clip")
    for other in (b"x" * 999, in_wav(mp3), b""):
        with pytest.raises(AudioError):
            decode_whole(in_wav(other), name="clip")


def test_what_cannot_be_sought_in_is_read_from_its_beginning() -> None:
    content = encoded("WAV", "GSM610", rate=8000)
    samples, _ = decode_whole(content, name="clip")
    assert len(samples) == pytest.approx(40_000, abs=320)
    part, _ = decode_whole(Segment(content, 1.0, 2.0), name="clip")
    assert np.array_equal(part, samples[8000:24_000])


@pytest.mark.parametrize("subtype", ["ALAC_16", "ALAC_24"])
def test_alac_in_caf_by_its_table_of_packets(subtype: str) -> None:
    """libsndfile takes a damaged table for a shorter clip."""
    content = encoded("CAF", subtype)
    expected, _ = decode_whole(content, name="clip")
    assert len(expected) == 40_000
    at = content.index(b"pakt") + 12
    size = struct.unpack(">q", content[at - 8 : at])[0]
    for place in range(at, at + size):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            try:
                samples, _ = decode_whole(bytes(damaged), name="clip")
            except AudioError:
                continue
            assert np.array_equal(samples, expected)  # in the padding of the table
    damaged = bytearray(content)
    damaged[at + 24] -= 1
    with pytest.raises(
        AudioError, match="clip: damaged: its table says 10 packets of 4096 samples, 40960 in"
    ):
        probe(bytes(damaged), "clip")


@pytest.mark.parametrize(
    ("kind", "subtype"), [("AIFF", "PCM_16"), ("AIFF", "ULAW"), ("AIFF", "PCM_U8"), ("W64", "PCM_16")]
)
def test_no_field_of_a_header_makes_a_shorter_clip(kind: str, subtype: str) -> None:
    content = encoded(kind, subtype)
    assert len(decode_whole(content, name="clip")[0]) == 40_000
    for place in range(content.index(b"SSND" if kind == "AIFF" else b"data") + 24):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            try:
                samples, _ = decode_whole(bytes(damaged), name="clip")
            except AudioError:
                continue
            assert len(samples) > 40_000 - 4  # a chunk may be padded to 8 bytes


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "IMA_ADPCM", "GSM610"])
@pytest.mark.parametrize("samples", [39_999, 40_010])
def test_aiff_of_odd_lengths(subtype: str, samples: int) -> None:
    content = encode_audio(wave(samples)[:, 0].astype(np.float32), 16_000, kind="AIFF", subtype=subtype)
    assert 0 <= len(decode_whole(content, name="clip")[0]) - samples < 64


@pytest.mark.parametrize("rate", [15_997, 16_001, 16_002, 44_101, 47_999])
def test_rates_close_to_the_wanted_one(rate: int) -> None:
    content = encode_audio(wave()[:, 0].astype(np.float32), rate, kind="WAV", subtype="PCM_16")
    samples = decode(content, sample_rate=16_000, name="clip")
    assert len(samples) == pytest.approx(40_000 * 16_000 / rate, rel=5e-4)
