"""MP3 files of every kind are read whole, to the sample, and what breaks off is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kikimimi.data import mp3
from kikimimi.data.audio import decode, decode_whole, probe
from kikimimi.data.content import Content
from kikimimi.errors import AudioError

pytestmark = pytest.mark.fault(
    "Sound: MP3 without, or with a wrong, length",
    "its frames are counted and all are read; what breaks off is refused",
)

RATES = (8_000, 16_000, 24_000, 32_000, 44_100, 48_000)


def encoded(rate: int = 16_000, seconds: float = 2.0, mode: str = "CONSTANT", channels: int = 1) -> bytes:
    """Return a loud half and a quiet half, so that variable rates vary."""
    wave = np.random.default_rng(0).normal(0, 0.2, (round(seconds * rate), channels))
    wave[len(wave) // 2 :] *= 1e-3
    file = io.BytesIO()
    options: dict[str, Any] = {"bitrate_mode": mode, "compression_level": 0.5}
    soundfile.write(file, wave, rate, format="MP3", subtype="MPEG_LAYER_III", **options)
    return file.getvalue()


def headless(content: bytes) -> bytes:
    """Leave out the frame of information, as a program that writes into a pipe does."""
    header = mp3._parse(content, 0)
    assert header is not None
    assert mp3._promise(content, 0, header) is not None
    return content[header.size :]


def frames(content: bytes) -> list[int]:
    """Return where frames begin."""
    at, found = 0, []
    while (header := mp3._parse(content, at)) is not None:
        found.append(at)
        at += header.size
    assert at == len(content)
    return found


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
@pytest.mark.parametrize("rate", RATES)
def test_without_a_header_every_sample_is_read(rate: int, mode: str, channels: int) -> None:
    content = headless(encoded(rate, mode=mode, channels=channels))
    samples, found = decode_whole(content, name="clip")
    header = mp3._parse(content, 0)
    assert header is not None
    assert (len(samples), found) == (len(frames(content)) * header.samples, rate)
    assert probe(content, "clip") == (len(samples) / rate, rate, channels)


@pytest.mark.parametrize("rate", RATES)
def test_the_samples_are_those_of_the_file_with_its_header(rate: int) -> None:
    """libsndfile leaves out what the header calls delay; without one that is there, too."""
    whole, _ = decode_whole(encoded(rate), name="clip")
    samples, _ = decode_whole(headless(encoded(rate)), name="clip")
    delay = len(samples) - len(whole)
    assert 0 < delay < 2 * 1152 + 1152
    fits = [n for n in range(delay + 1) if np.abs(samples[n : n + len(whole)] - whole).max() < 1e-5]
    assert len(fits) == 1


def test_with_a_right_header_the_bytes_stay_as_they_are() -> None:
    content = encoded()
    assert mp3.with_frames_counted(Content(content), "clip").pieces is None


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("with_header", [True, False])
def test_what_breaks_off_is_refused(mode: str, with_header: bool) -> None:
    content = encoded(mode=mode)
    content = content if with_header else headless(content)
    starts = {*frames(content), len(content)}
    for end in range(len(content) // 3, len(content), 97):
        if end in starts and not with_header:
            continue  # a shorter file, as nothing says that there was more
        with pytest.raises(AudioError, match=r"clip: (breaks off|damaged)"):
            decode(content[:end], sample_rate=16_000, name="clip")
        with pytest.raises(AudioError, match=r"clip: (breaks off|damaged)"):
            probe(content[:end], "clip")
    if with_header:
        with pytest.raises(AudioError, match=r"promises \d+ frames of MPEG audio, but only \d+ are there"):
            probe(content[: max(frames(content))], "clip")


def test_of_joined_files_all_are_read() -> None:
    first, second = encoded(seconds=1.0), headless(encoded(seconds=2.0, mode="VARIABLE"))
    tags = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)
    number = len(frames(first)) - 1
    for joined, times in ((first + second, 1), (second + first, 1), (first + tags + first + second, 2)):
        samples, _ = decode_whole(joined, name="clip")
        assert len(samples) == (times * number + len(frames(second))) * 576
    with pytest.raises(AudioError, match="breaks off: its header promises"):
        decode_whole(first[: max(frames(first))] + first, name="clip")
    with pytest.raises(AudioError, match=r"changes at byte \d+ from 16000 Hz .* to 44100 Hz"):
        decode_whole(first + encoded(44_100), name="clip")


def test_tags_are_no_audio() -> None:
    content = headless(encoded())
    samples, _ = decode_whole(content, name="clip")
    id3 = b"ID3\x03\x00\x00\x00\x00\x01\x00" + b"\xff\xfb\x90\x00" * 32
    ape = b"APETAGEX" + (2000).to_bytes(4, "little") + (42).to_bytes(4, "little") + bytes(8 + 8)
    tagged = id3 + content + bytes(10) + ape + b"TAG" + bytes(125)
    found, _ = decode_whole(tagged, name="clip")
    assert np.array_equal(found, samples)


def test_a_header_that_counts_itself() -> None:
    """Some programs do; the bytes that it tells show that nothing is missing."""
    content = bytearray(encoded())
    at = content.index(b"Info")
    number = int.from_bytes(content[at + 8 : at + 12], "big")
    content[at + 8 : at + 12] = (number + 1).to_bytes(4, "big")
    assert len(decode_whole(bytes(content), name="clip")[0]) == number * 576
    with pytest.raises(AudioError, match="breaks off"):
        decode_whole(bytes(content[: max(frames(bytes(content)))]), name="clip")


def test_damage_in_the_middle_is_told_with_its_place() -> None:
    content = bytearray(headless(encoded()))
    at = frames(bytes(content))[20]
    content[at] = 0
    with pytest.raises(
        AudioError, match=f"clip: damaged: at byte {at} of {len(content)} a frame of MPEG audio"
    ):
        decode(bytes(content), sample_rate=16_000, name="clip")


def test_a_file_is_read_as_its_bytes_are(tmp_path: Path) -> None:
    content = headless(encoded(mode="VARIABLE"))
    path = tmp_path / "clip.mp3"
    path.write_bytes(content)
    assert np.array_equal(decode_whole(path, name="clip")[0], decode_whole(content, name="clip")[0])
    assert probe(path, "clip") == probe(content, "clip")


def test_other_files_are_none() -> None:
    assert not mp3.is_mpeg(b"\xff\xfe" + "text".encode("utf-16-le"))
    assert not mp3.is_mpeg(b"ID3")
    assert not mp3.is_mpeg(b"")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_what_is_trimmed_is_believed_where_its_checksum_fits(rate: int, channels: int) -> None:
    content = encoded(rate, channels=channels)
    samples, _ = decode_whole(content, name="clip")
    assert len(samples) == 2 * rate
    at = content.index(b"LAME3")
    trim = slice(at + 21, at + 24)

    # As FFmpeg sums it: 190 bytes, of which those of the sum are zero.
    foreign = bytearray(content)
    foreign[at + 34 : at + 36] = b"\0\0"
    size = mp3._parse(content, 0).size  # type: ignore[union-attr]
    foreign[at + 34 : at + 36] = mp3._crc(bytes(foreign[:size]).ljust(190, b"\0")[:190]).to_bytes(2, "big")
    assert np.array_equal(decode_whole(bytes(foreign), name="clip")[0], samples)

    damaged = bytearray(content)
    damaged[trim] = b"\xff\xff\xff"  # 4,095 samples at both ends
    whole, _ = decode_whole(bytes(damaged), name="clip")
    begin = (int.from_bytes(content[trim], "big") >> 12) + mp3._DELAY
    assert np.allclose(whole[begin : begin + len(samples)], samples, rtol=0, atol=1e-6)


def test_a_file_that_lost_its_beginning_is_refused() -> None:
    content = headless(encoded())
    at = frames(content)[1]
    for damaged in (
        content[50:],
        b"\0" * 100 + content,
        content[:20] + b"more" + content[20:],
        b"x" + content,
    ):
        with pytest.raises(AudioError, match=r"clip: (damaged|breaks off|cannot be decoded)"):
            decode(damaged, sample_rate=16_000, name="clip")
    assert len(decode(content[at:], sample_rate=16_000, name="clip")) > 0


def test_zeros_between_a_tag_and_the_first_frame() -> None:
    content = encoded(16_000)
    expected, _ = decode_whole(headless(content), name="clip")
    tag = b"ID3\x04\0\0" + bytes([0, 0, 1, 0]) + bytes(128)
    for padding in (bytes(1), bytes(3000)):
        samples, _ = decode_whole(tag + padding + headless(content), name="clip")
        assert len(samples) == len(expected)


def test_a_damaged_beginning_is_not_passed_over() -> None:
    """libsndfile looks for the next frame, and guesses how many follow."""
    content = encoded(16_000)
    second = sorted(frames(content))[1]
    for damaged in (content[:8] + content[158:], content[: second - 1] + content[second:]):
        with pytest.raises(AudioError, match=r"clip: (damaged|breaks off|cannot be decoded)"):
            decode_whole(damaged, name="clip")
