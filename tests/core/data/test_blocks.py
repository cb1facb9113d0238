"""Audio of any length, block by block: what is made is what the whole gives, in little memory."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torchaudio import functional

from kikimimi import Row, Segment
from kikimimi.data import audio, stream
from kikimimi.data.audio import (
    OversizeError,
    check_sound,
    decode,
    decode_blocks,
    encode_flac,
    encode_opus,
    encode_stream,
    resampled,
)
from kikimimi.data.packing import row as packing
from kikimimi.data.packing.row import Dropped, PackedRow, PackSettings, pack_row
from kikimimi.errors import AudioError, CancellingError

pytestmark = pytest.mark.fault(
    "Sound: hours of it", "decoded, packed and checked block by block, to the same bytes"
)


def noise(count: int, level: float = 0.1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, level, count).astype(np.float32)


def file_of(samples: np.ndarray, rate: int, kind: str = "WAV", subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("rate", "wanted"),
    [
        (48_000, 16_000),
        (44_100, 16_000),
        (8_000, 16_000),
        (22_050, 16_000),
        (192_000, 8_000),
        (11_025, 48_000),
        (16_001, 16_000),
    ],
)
@pytest.mark.parametrize("size", [10_000, 30_011])
def test_blocks_are_resampled_as_the_whole_is(
    rate: int, wanted: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "_RESAMPLED", size)
    samples = noise(150_001)
    old, new = rate // math.gcd(rate, wanted), wanted // math.gcd(rate, wanted)
    if max(old, new) > 4000:
        old, new = 1, 1
    expected = functional.resample(torch.from_numpy(samples), old, new).numpy()
    blocks = np.split(samples, [7, 10_007, 50_000, 140_000])
    pieces = list(resampled(blocks, rate, wanted))
    assert len(pieces) > 3
    np.testing.assert_allclose(np.concatenate(pieces), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("together", [1, 500, 2_205])
def test_resampled_samples_come_soon_where_somebody_waits(together: int) -> None:
    samples = noise(30_001)
    expected = functional.resample(torch.from_numpy(samples), 441, 160).numpy()
    pieces: list[np.ndarray] = []
    given = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal given
        for start in range(0, len(samples), 100):
            given = start + 100
            yield samples[start:given]

    for piece in resampled(blocks(), 44_100, 16_000, together=together):
        pieces.append(piece)
        done = sum(map(len, pieces)) / 160 * 441
        assert given - done < max(together, 3 * 441) + 3 * 441
    np.testing.assert_allclose(np.concatenate(pieces), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("rate", [16_000, 44_100, 8_000])
@pytest.mark.parametrize("codec", ["flac", "opus"])
@pytest.mark.parametrize("level", [0.1, 0.5])  # the second is above full scale
def test_a_long_clip_is_packed_to_the_same_bytes(
    rate: int, codec: Any, level: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = file_of(noise(rate * 4, level), rate)
    row = Row("clip", {"text": "a"}, (Segment(content, 1.0, 0.5), content))
    conversation = {"role": "user", "content": [{"type": "audio", "audio": str(i)} for i in range(2)]}
    row.record.update(messages=[conversation, {"role": "assistant", "content": "b"}])
    del row.record["text"]
    settings = PackSettings(codec=codec)
    whole = pack_row(row, 0, settings)
    assert isinstance(whole, PackedRow)
    clip = decode(content, sample_rate=16_000, name="clip")
    assert whole.members[f"1.{codec}"] == {"flac": encode_flac, "opus": encode_opus}[codec](clip, 16_000)
    monkeypatch.setattr(packing, "_HELD", 1)
    monkeypatch.setattr(packing, "decode_opened", None)  # nothing is decoded at once
    assert pack_row(row, 0, settings) == whole


def test_what_is_too_loud_is_turned_down_by_one_gain() -> None:
    blocks = [noise(30_000), 4 * noise(30_000), noise(10_000)]
    made = encode_stream(lambda: blocks, 16_000, "flac", most_bytes=1 << 20, name="clip")
    assert made.content == encode_flac(np.concatenate(blocks), 16_000)
    peak = np.abs(np.concatenate(blocks)).max()
    assert peak > 1.5
    found = decode(made.content, sample_rate=16_000, name="clip")
    np.testing.assert_allclose(found, np.concatenate(blocks) / peak, atol=2**-14)
    assert (made.samples, made.silent) == (70_000, False)


def test_a_clip_that_takes_too_many_bytes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OversizeError, match="clip: takes more than 1 MiB as flac"):
        encode_stream(lambda: [noise(1_000_000)], 16_000, "flac", most_bytes=1 << 20, name="clip")
    monkeypatch.setattr(packing, "MAX_BYTES", 1 << 20)
    dropped = pack_row(Row("clip", {"text": "a"}, (file_of(noise(1_000_000), 16_000),)), 0, PackSettings())
    assert isinstance(dropped, Dropped)
    assert (dropped.reason, dropped.seconds) == ("too long", 62.5)
    assert "clip: takes more than 1 MiB as flac" in dropped.detail
    assert "more than a record may hold; cut it into segments, or pack it as opus" in dropped.detail


def test_what_is_wrong_is_told_after_the_last_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_BLOCK", 1000)
    left = noise(16_000)
    blocks = decode_blocks(file_of(np.stack([left, -left], 1), 16_000), sample_rate=16_000, name="clip")
    with pytest.raises(CancellingError, match="its 2 channels cancel"):
        list(blocks)
    bad = left.copy()
    bad[15_500] = np.nan
    with pytest.raises(AudioError, match="clip: 1 samples are not numbers"):
        check_sound(file_of(bad, 16_000), "clip")
    bad[500] = np.inf
    with pytest.raises(AudioError, match="clip: at least 1 samples are not numbers"):
        check_sound(file_of(bad, 16_000), "clip")


def test_a_clip_longer_than_wanted_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream.Stream, "blocks", None)
    content = file_of(noise(160_000), 16_000)
    with pytest.raises(AudioError, match=r"clip: lasts 10\.0 seconds; at most 9\.0 seconds are decoded"):
        decode(content, sample_rate=16_000, name="clip", max_seconds=9.0)


LONG = """
import resource, sys
from pathlib import Path
import numpy, soundfile, torch
from torchaudio import functional
from kikimimi.data.audio import decode_blocks
from kikimimi.data.packing.row import PackSettings, Row, pack_row
functional.resample(torch.zeros(1000), 8000, 16000)
path = Path(sys.argv[1])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
samples = sum(len(block) for block in decode_blocks(path, sample_rate=16000, name="clip"))
packed = pack_row(Row("clip", {"text": "a"}, (path,)), 0, PackSettings())
print(samples, packed.seconds, peak() - before)
"""


def test_a_long_clip_takes_the_memory_of_some_blocks(tmp_path: Path) -> None:
    path, rate = tmp_path / "long.flac", 8_000
    with soundfile.SoundFile(path, "w", rate, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(20):
            file.write(np.zeros(60 * rate, dtype=np.int16))
    done = subprocess.run([sys.executable, "-c", LONG, str(path)], check=True, capture_output=True, text=True)
    samples, seconds, megabytes = map(float, done.stdout.split())
    assert (samples, seconds) == (1200 * 16_000, 1200)
    assert megabytes < 200  # to resample it whole would take more than a gigabyte
