from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from kikimimi.data import ogg
from kikimimi.data.audio import decode, encode_opus, probe
from kikimimi.data.codec import OPUS_RATES
from kikimimi.errors import RequestError


def voice(samples: int, rate: int) -> np.ndarray:
    """A gliding pulse train with twelve harmonics, in syllables."""
    time = np.arange(samples) / rate
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(4 * np.pi * time)) / rate
    wave = sum(np.sin(k * phase) / k for k in range(1, 13))
    return np.asarray(0.2 * wave * (0.55 + 0.45 * np.sin(6 * np.pi * time)), dtype=np.float32)


def bit_by_bit(page: bytes) -> int:
    """The checksum as RFC 3533 defines it: polynomial 0x04C11DB7, from 0, not mirrored."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)
            crc &= 0xFFFFFFFF
    return crc


@pytest.mark.parametrize("rate", OPUS_RATES)
@pytest.mark.parametrize("seconds", [0.025, 1.0, 3.3337])
def test_decodes_to_the_same_length_in_time(rate: int, seconds: float) -> None:
    samples = voice(round(seconds * rate), rate)
    data = encode_opus(samples, rate)
    decoded = decode(data, sample_rate=rate, name="clip")
    assert len(decoded) == len(samples)
    assert probe(data, "clip") == (len(samples) / rate, rate, 1)
    # Its bit rate rises with the sampling rate in steps; at 16 kHz, what speech is packed at, it is generous.
    least = 0.99 if rate == 16_000 or seconds > 1 else 0.98
    assert np.corrcoef(samples, decoded)[0, 1] > least


def test_the_same_samples_give_the_same_bytes() -> None:
    samples = voice(20_000, 16_000)
    assert encode_opus(samples, 16_000) == encode_opus(samples.copy(), 16_000)
    # libsndfile alone does not: were this to fail, its serial numbers would no longer be random.
    files = []
    for _ in range(2):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, 16_000, format="OGG", subtype="OPUS")
        files.append(buffer.getvalue())
    assert files[0] != files[1]
    assert len(encode_opus(samples, 16_000)) < len(files[0]) - 400  # nor are its comments padded


def test_every_page_has_its_checksum_and_the_comments_name_no_version() -> None:
    data = encode_opus(voice(40_000, 16_000), 16_000)
    pages = [b"OggS" + page for page in data.split(b"OggS")[1:]]
    assert len(pages) > 3
    for number, page in enumerate(pages):
        cleared = page[:22] + bytes(4) + page[26:]
        assert int.from_bytes(page[22:26], "little") == ogg.crc(cleared) == bit_by_bit(cleared)
        assert int.from_bytes(page[18:22], "little") == number
        assert page[14:18] == pages[0][14:18]
    assert pages[1][28:] == b"OpusTags\x08\0\0\0kikimimi\0\0\0\0"


def test_a_clip_above_full_scale_is_turned_down() -> None:
    samples = voice(16_000, 16_000)
    loud = decode(encode_opus(samples * 8, 16_000), sample_rate=16_000, name="clip")
    assert np.abs(samples * 8).max() > 1.5
    assert np.abs(loud).max() < 1.1
    assert np.corrcoef(samples, loud)[0, 1] > 0.99


def test_refuses_a_rate() -> None:
    with pytest.raises(RequestError, match=r"no sampling rate of 44100 Hz; it has 8000, 12000, 16000, 24000"):
        encode_opus(voice(44_100, 44_100), 44_100)
