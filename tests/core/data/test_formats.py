"""M4A, AAC and WebM through FFmpeg, and what a file that is not audio is said to be."""

from __future__ import annotations

import io
import sys
import tempfile
import tracemalloc
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from kikimimi import Row, Segment
from kikimimi.data import av_file, stream
from kikimimi.data.audio import (
    check_sound,
    decode,
    decode_blocks,
    decode_whole,
    encode_flac,
    is_silent,
    probe,
)
from kikimimi.data.packing.row import Dropped, PackedRow, PackSettings, pack_row
from kikimimi.errors import AudioError, CancellingError

pytestmark = pytest.mark.fault(
    "Sound: M4A, AAC, WebM, and what is no audio",
    "read with the extra `formats`; else the message says what the file is",
)

KINDS = [
    ("mp4", "aac", 16_000),
    ("mp4", "alac", 44_100),
    ("matroska", "flac", 22_050),
    ("webm", "libopus", 48_000),
    ("adts", "aac", 16_000),
    ("matroska", "pcm_s16le", 8_000),
]


def tone(seconds: float, rate: int, channels: int = 2, turned: float = 0.5) -> np.ndarray:
    left = 0.3 * np.sin(2 * np.pi * 440 / rate * np.arange(round(seconds * rate)))
    return np.stack([left, turned * left], axis=1)[:, :channels].astype(np.float32)


@cache
def encoded(
    kind: str,
    codec: str,
    rate: int,
    seconds: float = 2.5,
    channels: int = 2,
    turned: float = 0.5,
    options: tuple[tuple[str, str], ...] = (),
) -> bytes:
    samples = tone(seconds, rate, channels, turned)
    layout = "mono" if channels == 1 else "stereo"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip")
        with av.open(path, "w", format=kind, options=dict(options)) as container:
            track = container.add_stream(codec, rate=rate, layout=layout)
            assert isinstance(track, av.AudioStream)
            coder = track.codec_context
            resampler = av.AudioResampler(coder.format, layout, rate, coder.frame_size or 1024)
            frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "flt", layout)
            frame.sample_rate, frame.pts = rate, 0
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(track.encode(part))
            container.mux(track.encode(None))
        return path.read_bytes()


@pytest.mark.parametrize(("kind", "codec", "rate"), KINDS)
def test_what_was_encoded_is_decoded(kind: str, codec: str, rate: int, tmp_path: Path) -> None:
    content = encoded(kind, codec, rate)
    path = tmp_path / "voice.mp3"  # whatever it is called
    path.write_bytes(content)
    samples, found = decode_whole(content, name="clip")
    assert found == rate
    # AAC adds silence, of a frame or two, before and after; in MP4 a list of edits takes the first away.
    assert len(samples) / rate == pytest.approx(2.5, abs=2100 / rate if codec == "aac" else 0.021)
    assert np.abs(samples[rate : 2 * rate]).max() == pytest.approx(0.225, rel=0.05)
    spectrum = np.abs(np.fft.rfft(samples[rate : 2 * rate]))
    assert np.argmax(spectrum) == 440
    assert probe(content, "clip") == (len(samples) / rate, rate, 2)
    assert np.array_equal(decode_whole(path, name="clip")[0], samples)
    part, _ = decode_whole(Segment(path, 1.1, 0.7), name="clip")
    assert np.array_equal(part, samples[round(1.1 * rate) : round(1.8 * rate)])
    right, _ = decode_whole(Segment(path, 1.1, 0.7, 1), name="clip")
    assert np.abs(right).max() == pytest.approx(0.15, rel=0.05)
    whole = decode(content, sample_rate=16_000, name="clip")
    packed = pack_row(Row("clip", {"text": "a"}, (path,)), 0, PackSettings())
    assert isinstance(packed, PackedRow)
    assert packed.members["0.flac"] == encode_flac(whole, 16_000)


@pytest.mark.parametrize(("kind", "codec", "rate"), KINDS)
def test_what_breaks_off_is_refused(kind: str, codec: str, rate: int) -> None:
    content = encoded(kind, codec, rate)
    for end in range(1000, len(content), len(content) // 40):
        for read in (lambda cut: decode_whole(cut, name="clip"), lambda cut: probe(cut, "clip")):
            with pytest.raises(AudioError, match="clip: breaks off"):
                read(content[:end])
    with pytest.raises(AudioError, match=r"clip: (breaks off|holds|cannot|damaged)"):
        decode_whole(content[:-1], name="clip")


@pytest.mark.parametrize("moved", ["+faststart", "+frag_keyframe+empty_moov"])
def test_mpeg_4_in_other_orders(moved: str) -> None:
    content = encoded("mp4", "aac", 16_000, options=(("movflags", moved),))
    assert len(decode_whole(content, name="clip")[0]) / 16_000 == pytest.approx(2.5, abs=0.14)
    for end in range(100, len(content), 997):
        with pytest.raises(AudioError, match="clip: breaks off"):
            decode_whole(content[:end], name="clip")


def test_webm_of_a_browser() -> None:
    """It is written as it is recorded: no length, and sizes that are not known."""
    content = encoded("webm", "libopus", 48_000, options=(("live", "1"),))
    assert bytes.fromhex("1853806701ffffffffffffff") in content
    assert len(decode_whole(content, name="clip")[0]) / 48_000 == pytest.approx(2.5, abs=0.021)
    for end in range(100, len(content), 997):
        with pytest.raises(AudioError, match="clip: breaks off"):
            decode_whole(content[:end], name="clip")


@pytest.mark.parametrize(("kind", "codec", "rate"), [KINDS[0], KINDS[3]])
def test_joined_files_are_refused(kind: str, codec: str, rate: int) -> None:
    content = encoded(kind, codec, rate)
    with pytest.raises(AudioError, match=f"the second begins at byte {len(content)}: were they joined"):
        decode_whole(content + content, name="clip")


def test_joined_aac_is_read_whole() -> None:
    content = encoded("adts", "aac", 16_000)
    once, _ = decode_whole(content, name="clip")
    assert len(decode_whole(content + content, name="clip")[0]) == 2 * len(once)


def test_channels_that_cancel_and_silence() -> None:
    with pytest.raises(CancellingError):
        check_sound(encoded("mp4", "alac", 16_000, turned=-1.0), "clip")
    assert not is_silent(decode(encoded("mp4", "alac", 16_000), sample_rate=16_000, name="clip"))


def test_damage_within_is_told() -> None:
    content = bytearray(encoded("adts", "aac", 16_000))
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    with pytest.raises(AudioError, match="clip: damaged"):
        decode_whole(bytes(content), name="clip")


def test_parts_that_are_missing_on_the_way_are_told() -> None:
    content = encoded("webm", "libopus", 48_000)
    track = b"\xa3"  # SimpleBlock, whose size, track and time follow
    at, cut = len(content) // 2, bytearray(content)
    for _ in range(20):
        at = content.index(track, at + 1)
        if content[at + 1] & 0x80 and content[at + 2] == 0x81:
            cut[at + 2] = 0x85  # of another track, which is not there
        elif content[at + 1] & 0x40 and content[at + 3] == 0x81:
            cut[at + 3] = 0x85
    assert cut != content
    with pytest.raises(AudioError, match=r"clip: (breaks off: its header promises|damaged: it goes from)"):
        decode_whole(bytes(cut), name="clip")


def test_files_are_decoded_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_BLOCK", 1 << 14)
    content = encoded("adts", "aac", 16_000, seconds=60.0, channels=1)
    tracemalloc.start()
    samples = sum(len(block) for block in decode_blocks(content, sample_rate=16_000, name="clip"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert samples == pytest.approx(60 * 16_000, abs=3000)
    assert peak < 1_500_000  # they are 3.8 MB


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    content = encoded("mp4", "aac", 16_000)
    said = (
        r"clip: holds MPEG-4 audio \(M4A, MP4\), and reading it needs the package 'av', which is not "
        r"installed\. Install it with: pip install 'kikimimi\[formats\]'"
    )
    with pytest.raises(AudioError, match=said):
        probe(content, "clip")
    dropped = pack_row(Row("clip", {"text": "a"}, (content,)), 0, PackSettings())
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "undecodable audio"
    assert "pip install 'kikimimi[formats]'" in dropped.detail


def test_a_file_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(encoded("mp4", "aac", 16_000))
    expected = probe(path, "clip")
    monkeypatch.setattr(av_file, "_counted", None)
    assert probe(path, "clip") == expected
    assert probe(Segment(path, 1.0, 1.0), "clip")[0] == 1.0


def voc() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000), 8000, format="VOC")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><title>404</title>", "is an HTML page"),
        (b"\n  <html>404</html>", "is an HTML page"),
        (b"<?xml version='1.0'?><Error/>", "is an XML document"),
        (b'{"error": "quota"}', r"is JSON \(an error that a server sent\?\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "is a pointer of Git LFS"),
        (b"\x1f\x8b\x08" + bytes(50), "is a gzip archive"),
        (b"PK\x03\x04" + bytes(50), "is a ZIP archive"),
        (b"#!AMR\n" + bytes(50), "holds AMR audio"),
        (b"RIFF\x24\0\0\0AVI LIST" + bytes(50), "is a RIFF file of kind 'AVI', not WAV"),
        (voc(), r"is a Creative Voice file \(VOC\)"),
    ],
)
@pytest.mark.parametrize("name", ["b.mp3", "b.wav", "b"])
def test_what_is_there_instead(content: bytes, said: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(AudioError, match=rf"b\.mp3: {said}.*, which is not read\. Readable: WAV, FLAC"):
            probe(source, "b.mp3")


def test_what_is_not_known_is_not_said_to_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "b.mp3"
    path.write_bytes(bytes(range(1, 200)) * 20)
    with pytest.raises(AudioError, match=r"b\.mp3: cannot be decoded: Format not recognised\. Readable: WAV"):
        probe(path, "b.mp3")
