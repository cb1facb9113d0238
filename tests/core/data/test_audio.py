from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kikimimi.data import stream
from kikimimi.data.audio import (
    decode,
    decode_whole,
    encode_audio,
    encode_flac,
    encode_opus,
    is_silent,
    probe,
    resample,
)
from kikimimi.data.content import memory_file, whole
from kikimimi.errors import AudioError, CancellingError, RequestError

Tone = Callable[..., bytes]


@pytest.mark.parametrize(
    ("kind", "subtype", "rate", "channels"),
    [
        ("WAV", "PCM_16", 16_000, 1),
        ("WAV", "PCM_24", 44_100, 2),
        ("WAV", "FLOAT", 8_000, 1),
        ("WAV", "PCM_U8", 11_025, 1),
        ("FLAC", "PCM_24", 48_000, 2),
        ("OGG", "VORBIS", 22_050, 1),
        ("OGG", "OPUS", 48_000, 2),
        ("MP3", "MPEG_LAYER_III", 44_100, 2),
        ("WAV", "PCM_16", 44_101, 1),
    ],
)
def test_decodes_every_format_to_the_same_tone(
    tone: Tone, kind: str, subtype: str, rate: int, channels: int
) -> None:
    data = tone(1.0, rate, kind, subtype, channels)
    samples = decode(data, sample_rate=16_000, name="clip")
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert len(samples) == pytest.approx(16_000, abs=1200)  # MP3 pads
    spectrum = np.abs(np.fft.rfft(samples[2000:14_000]))
    assert np.argmax(spectrum) * 16_000 / 12_000 == pytest.approx(440, abs=2)
    assert np.abs(samples[2000:14_000]).max() == pytest.approx(0.3, rel=0.15)
    seconds, *header = probe(data, "clip")
    assert header == [rate, channels]
    assert seconds == pytest.approx(len(samples) / 16_000, abs=1e-3)


def test_averages_channels() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([np.full(800, 0.5), np.full(800, -0.25)], 1), 16_000, format="WAV")
    samples = decode(buffer.getvalue(), sample_rate=16_000, name="clip")
    np.testing.assert_allclose(samples, 0.125, atol=1e-4)


def test_decodes_a_path(tmp_path: Path, tone: Tone) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(tone(0.5))
    assert len(decode(path, sample_rate=16_000, name="a.wav")) == 8000
    assert probe(path, "a.wav") == (0.5, 16_000, 1)


def test_torch_is_imported_only_to_resample(tmp_path: Path, tone: Tone) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(tone(0.5))
    code = (
        "import sys; from pathlib import Path; from kikimimi.data.audio import decode;"
        f"decode(Path({str(path)!r}), sample_rate=16000, name='a'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_resamples_to_the_next_whole_sample() -> None:
    samples = np.zeros(100, dtype=np.float32)
    assert resample(samples, 16_000, 16_000) is samples
    assert len(resample(samples, 48_000, 16_000)) == 34


def test_missing_file_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"voice\.wav: no such audio file"):
        decode(tmp_path / "voice.wav", sample_rate=16_000, name="voice.wav")
    with pytest.raises(RequestError, match="is a folder, not an audio file"):
        probe(tmp_path, "clips")


def _float_wav(samples: list[float]) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.array(samples, dtype=np.float32), 16_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"clip: the file is empty \(0 bytes\)"),
        (
            b"not audio at all " * 50,
            r"clip: cannot be decoded: Format not recognised\. Readable: WAV, FLAC, OGG",
        ),
        (_float_wav([]), "clip: holds no samples"),
        (_float_wav([0.1] * 160), r"clip: 10\.0 ms long; the shortest is 25 ms"),
        (_float_wav([0.1, float("nan"), float("inf")] * 200), "clip: 400 samples are not numbers"),
        (
            _float_wav([3000.0] * 800),
            r"clip: samples reach 3000 where full scale is 1: integers stored as floats\?",
        ),
    ],
    # Made from the bytes, ids would differ between processes: a NaN has many spellings.
    ids=["empty", "not-audio", "no-samples", "too-short", "not-numbers", "integers"],
)
def test_refuses_what_cannot_be_used(data: bytes, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        decode(data, sample_rate=16_000, name="clip")


def test_header_that_promises_more_than_there_is(tone: Tone) -> None:
    whole = tone(1.0)
    with pytest.raises(
        AudioError, match="clip: breaks off: its header promises 32000 bytes, but only 15978 are"
    ):
        decode(whole[: len(whole) // 2], sample_rate=16_000, name="clip")
    with pytest.raises(AudioError, match="breaks off"):
        probe(whole[: len(whole) // 2], "clip")
    flac = tone(3.0, kind="FLAC")
    with pytest.raises(AudioError, match="clip: cannot be decoded"):
        decode(flac[: len(flac) // 2], sample_rate=16_000, name="clip")
    mp3 = tone(3.0, kind="MP3")
    with pytest.raises(
        AudioError, match="clip: breaks off: 18 bytes of the last frame of MPEG audio are missing"
    ):
        decode(mp3[: len(mp3) // 2], sample_rate=16_000, name="clip")


def test_flac_that_claims_a_day_allocates_nothing_and_fails(tone: Tone) -> None:
    flac = bytearray(tone(1.0, kind="FLAC"))
    total = 8 + 13  # the 36-bit number of samples in STREAMINFO
    flac[total] |= 0x0F
    flac[total + 1 : total + 5] = b"\xff\xff\xff\xff"
    with pytest.raises(AudioError, match="clip: "):
        decode(bytes(flac), sample_rate=16_000, name="clip")


def test_wav_written_into_a_pipe_is_read_to_its_end(tone: Tone) -> None:
    data = bytearray(tone(1.0))
    size = data.index(b"data") + 4
    data[size : size + 4] = struct.pack("<I", 0xFFFFFFFF)
    assert len(decode(bytes(data), sample_rate=16_000, name="clip")) == 16_000


def test_low_rate_is_not_believed(tone: Tone) -> None:
    with pytest.raises(AudioError, match=r"sampling rate of 100 Hz \(least: 1000\)"):
        decode(tone(1.0, rate=100), sample_rate=16_000, name="clip")


def test_flac_keeps_samples_and_never_clips() -> None:
    samples = (0.5 * np.sin(np.arange(4000))).astype(np.float32)
    again = decode(encode_flac(samples, 16_000), sample_rate=16_000, name="clip")
    np.testing.assert_allclose(again, samples, atol=2**-15)
    loud = decode(encode_flac(samples * 3, 16_000), sample_rate=16_000, name="clip")
    np.testing.assert_allclose(loud, samples * 3 / np.abs(samples * 3).max(), atol=2**-14)


def test_silence_is_below_minus_sixty_decibels() -> None:
    assert is_silent(np.full(100, 0.0009, dtype=np.float32))
    assert not is_silent(np.full(100, -0.0011, dtype=np.float32))
    assert is_silent(np.zeros(0, dtype=np.float32))


def test_two_hours_take_the_memory_of_their_samples_once() -> None:
    buffer = io.BytesIO()
    seconds, rate = 7200, 1000  # silence at the lowest rate: small, and quick to make
    with soundfile.SoundFile(buffer, "w", rate, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(seconds // 600):
            file.write(np.zeros(600 * rate, dtype=np.float32))
    data = buffer.getvalue()
    tracemalloc.start()
    samples, found = decode_whole(data, name="clip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == rate
    assert len(samples) == seconds * rate
    assert samples.base is None
    assert peak < 1.1 * samples.nbytes
    # What is not there is not allocated, whatever the header says.
    tracemalloc.start()
    with pytest.raises(AudioError, match="clip: "):
        decode_whole(data[: len(data) // 100], name="clip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.1 * samples.nbytes


def test_channels_of_a_long_clip_are_averaged_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_BLOCK", 1000)
    rng = np.random.default_rng(0)
    stereo = rng.uniform(-0.5, 0.5, (7321, 2)).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, stereo, 16_000, format="WAV", subtype="FLOAT")
    samples, rate = decode_whole(buffer.getvalue(), name="clip")
    assert rate == 16_000
    np.testing.assert_array_equal(samples, stereo.mean(axis=1, dtype=np.float32))
    buffer = io.BytesIO()
    soundfile.write(buffer, stereo[:, 0], 16_000, format="WAV", subtype="FLOAT")
    np.testing.assert_array_equal(decode_whole(buffer.getvalue(), name="clip")[0], stereo[:, 0])


SAMPLES = np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32)
FLAC = encode_flac(SAMPLES, 16_000)


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda: probe(FLAC, name="clip"), id="probe"),
        pytest.param(lambda: decode_whole(FLAC, name="clip"), id="decode"),
        pytest.param(lambda: encode_flac(SAMPLES, 16_000), id="flac"),
        pytest.param(lambda: encode_opus(SAMPLES, 16_000), id="opus"),
    ],
)
def test_libsndfile_does_not_call_back(work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a signal raises in such a call is lost, and the clip is taken for a broken one."""

    def callbacks(self: soundfile.SoundFile, file: object) -> None:
        raise AssertionError("functions that libsndfile calls")

    monkeypatch.setattr(soundfile.SoundFile, "_init_virtual_io", callbacks)
    assert work()


@pytest.mark.parametrize("in_memory", [True, False])
def test_holds_bytes_as_any_file_does(in_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)  # other systems have temporary files only
    with memory_file(b"abc") as file:
        assert os.read(file, 9) == b"abc"
        os.write(file, b"def")
        assert whole(file) == b"abcdef"
    with memory_file() as file:
        assert whole(file) == b""


def two_channels(turned: float, seconds: float = 1.0) -> bytes:
    left = 0.3 * np.sin(np.arange(round(16_000 * seconds)) / 8)
    file = io.BytesIO()
    soundfile.write(file, np.stack([left, turned * left], axis=1), 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


def test_a_block_of_many_channels_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a few megabytes could hold 255 channels of silence, of which a block took hundreds."""
    monkeypatch.setattr(stream, "_BLOCK", 1000)
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (3000, 16)).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 8000, format="WAV", subtype="FLOAT")
    with stream.opened(buffer.getvalue(), "clip") as file:
        blocks = list(file.blocks())
    assert [len(block) for block in blocks] == [125] * 24
    np.testing.assert_allclose(np.concatenate(blocks), samples.mean(axis=1), atol=1e-6)


def test_channels_that_cancel_one_another_are_no_silence() -> None:
    for turned in (-1.0, -0.98):
        with pytest.raises(
            CancellingError, match="clip: its 2 channels cancel one another, and their average"
        ):
            decode(two_channels(turned), sample_rate=16_000, name="clip")
    for turned in (1.0, 0.0, -0.5):
        samples = decode(two_channels(turned), sample_rate=16_000, name="clip")
        assert np.abs(samples).max() == pytest.approx(0.15 * (1 + turned), abs=1e-3)
    silence = io.BytesIO()
    soundfile.write(silence, np.zeros((16_000, 2)), 16_000, format="WAV")
    assert is_silent(decode(silence.getvalue(), sample_rate=16_000, name="clip"))


@pytest.mark.fault("Sound: channels that cancel one another", "left out by that name")
@pytest.mark.parametrize(
    ("cancelling", "lost"), [(0.0, False), (0.05, False), (0.3, True), (0.9, True), (1.0, True)]
)
def test_channels_that_cancel_for_a_part_of_a_clip(cancelling: float, lost: bool) -> None:
    left = np.random.default_rng(0).normal(0, 0.1, 160_000).astype(np.float32)
    right = left.copy()
    right[: round(cancelling * len(left))] *= -1
    content = encode_audio(np.stack([left, right], 1), 16_000, kind="WAV", subtype="PCM_16")
    if lost:
        with pytest.raises(CancellingError, match="its 2 channels cancel one another"):
            decode_whole(content, name="clip")
    else:
        assert len(decode_whole(content, name="clip")[0]) == 160_000


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE", "PCM_16"])
def test_encoded_wav_tells_no_time(subtype: str) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    content = encode_audio(samples, 16_000, kind="WAV", subtype=subtype)
    peak = content.find(b"PEAK")
    assert (peak < 0) == (subtype == "PCM_16")
    if peak > 0:
        assert content[peak + 12 : peak + 16] == bytes(4)
    assert np.allclose(decode_whole(content, name="clip")[0], samples, atol=1e-4)
