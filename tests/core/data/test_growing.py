from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from kikimimi.data.growing import GrowingWav
from kikimimi.errors import AudioError


def noise(count: int, channels: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-0.9, 0.9, (count, channels)).astype(np.float32)


def heard(content: bytes, **options: Any) -> NDArray[np.float32]:
    wav = GrowingWav(io.BytesIO(content), "a.wav", idle=0, **options)
    return np.concatenate([*wav.blocks(), np.zeros(0, np.float32)])


class Pipe(io.BytesIO):
    """Gives a few bytes at a time, and cannot go back."""

    def seekable(self) -> bool:
        return False

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(7, 7 if size is None or size < 0 else size))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_it_reads_what_libsndfile_reads(tmp_path: Path, subtype: str, channels: int, form: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1000, channels), 16_000, subtype, format=form)
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    content = path.read_bytes()
    np.testing.assert_allclose(heard(content), expected.mean(axis=1), atol=1e-7)
    piped = GrowingWav(Pipe(content), "standard input")
    assert piped.rate == 16_000
    np.testing.assert_allclose(np.concatenate(list(piped.blocks())), expected.mean(axis=1), atol=1e-7)


def header(size: int, *, code: int = 1, bits: int = 16, channels: int = 1, rate: int = 16_000) -> bytes:
    form = struct.pack("<HHIIHH", code, channels, rate, 0, 0, bits)
    return b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size)


SAMPLES = np.arange(500, dtype="<i2")


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000 - 36, 1 << 30])
def test_a_size_that_is_not_known_is_not_believed(size: int) -> None:
    np.testing.assert_allclose(heard(header(size) + SAMPLES.tobytes()), SAMPLES / 32768)


def test_what_stands_after_the_samples_is_not_heard() -> None:
    content = header(SAMPLES.nbytes) + SAMPLES.tobytes() + b"LIST\4\0\0\0abcd"
    np.testing.assert_allclose(heard(content), SAMPLES / 32768)


def test_it_goes_on_when_the_file_grows() -> None:
    """Its size may be filled in meanwhile, and a sample may be there in part."""
    file = io.BytesIO(header(100) + SAMPLES.tobytes()[:101])
    wav = GrowingWav(file, "a.wav")
    blocks = wav.blocks()
    assert len(next(blocks)) == 50
    here = file.tell()
    file.seek(0)
    file.write(header(SAMPLES.nbytes) + SAMPLES.tobytes())
    file.seek(here)
    np.testing.assert_allclose(next(blocks), SAMPLES[50:] / 32768)
    wav.stop()
    assert list(blocks) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fLaC" + b"\0" * 50, "is not WAV, the only format that can be heard while it is written"),
        (b"RIFF", "ends within its header"),
        (header(0)[:30], "ends within its header"),
        (header(0)[:12] + b"data\0\0\0\0", "its header does not tell how samples are written"),
        (header(0, code=6, bits=8), "holds samples of kind 6 with 8 bits"),
        (header(0, channels=0), "its header gives 0 channels at 16000 Hz"),
        (header(0, rate=10), "its header gives 1 channels at 10 Hz"),
        (b"RIFF\0\0\0\0WAVEJUNK" + struct.pack("<I", 1 << 30), "has no samples in its first 1 MiB"),
    ],
)
def test_what_is_no_such_file(content: bytes, message: str) -> None:
    with pytest.raises(AudioError, match=f"a.wav: .*{message}"):
        heard(content)


def test_a_device_ends() -> None:
    message = "standard input: ends within its header"
    with open(os.devnull, "rb", buffering=0) as nothing, pytest.raises(AudioError, match=message):
        GrowingWav(nothing, "standard input")


@pytest.mark.parametrize(
    ("harm", "message"),
    [(lambda path: path.unlink(), "deleted"), (lambda path: os.truncate(path, 50), "cut")],
)
def test_a_file_that_is_lost_while_it_is_heard(
    tmp_path: Path, harm: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(header(0) + SAMPLES.tobytes())
    with path.open("rb", buffering=0) as file:
        blocks = GrowingWav(file, "a.wav").blocks()
        np.testing.assert_allclose(next(blocks), SAMPLES / 32768)
        harm(path)
        with pytest.raises(AudioError, match=rf"^a\.wav: was {message} while it was heard$"):
            next(blocks)


def test_values_that_are_not_numbers() -> None:
    samples = np.array([0.1, np.nan], "<f4")
    with pytest.raises(AudioError, match="not numbers"):
        heard(header(0, code=3, bits=32) + samples.tobytes())
