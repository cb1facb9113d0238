"""Segments of audio files: the samples that are asked for, and no others."""

from __future__ import annotations

import io
import itertools
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kikimimi import Row, Segment, clip_name
from kikimimi.data.audio import decode, decode_whole, probe
from kikimimi.data.packing.row import Dropped, PackedRow, PackSettings, pack_row
from kikimimi.errors import AudioError, CancellingError

pytestmark = pytest.mark.fault("Sound: segments of a recording", "cut to the sample, or left out by name")

KINDS = [
    ("WAV", "PCM_16"),
    ("WAVEX", "PCM_24"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("W64", "PCM_16"),
    ("RF64", "FLOAT"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("WAV", "ULAW"),
    ("WAV", "IMA_ADPCM"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


def encoded(kind: str, subtype: str, *, seconds: float = 5.0, rate: int = 16_000, channels: int = 2) -> bytes:
    file = io.BytesIO()
    wave = np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels))
    soundfile.write(file, wave, rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_the_samples_of_a_stretch(kind: str, subtype: str, tmp_path: Path) -> None:
    content = encoded(kind, subtype)
    whole, rate = decode_whole(content, name="clip")
    path = tmp_path / "clip"
    path.write_bytes(content)
    for start, seconds in ((0.0, 1.0), (1.23456, 0.5), (3.7, 0.1 + 0.2), (4.5, None), (0.0, None)):
        begin = round(start * rate)
        end = len(whole) if seconds is None else round((start + seconds) * rate)
        for source in (content, path):
            segment = Segment(source, start, seconds)
            samples, found = decode_whole(segment, name="clip")
            assert found == rate
            # libsndfile rounds the samples of MP3 differently where it is asked for other numbers of them.
            np.testing.assert_allclose(samples, whole[begin:end], rtol=0, atol=1e-7 if kind == "MP3" else 0)
            assert probe(segment, "clip") == ((end - begin) / rate, rate, 2)


def test_segments_in_a_row_share_nothing_and_leave_nothing_out() -> None:
    content = encoded("WAV", "PCM_16", rate=11_025)
    edges = [0.0, 0.33333, 1.00007, 2.2, 3.14159, 5.0]
    parts = [
        decode_whole(Segment(content, begin, end - begin), name="clip")[0]
        for begin, end in itertools.pairwise(edges)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), decode_whole(content, name="clip")[0])


def test_one_channel() -> None:
    content = encoded("WAV", "FLOAT", channels=3)
    wave = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    for channel in range(3):
        samples, _ = decode_whole(Segment(content, 1.0, 2.0, channel), name="clip")
        np.testing.assert_array_equal(samples, wave[16_000:48_000, channel])
        assert probe(Segment(content, 1.0, 2.0, channel), "clip") == (2.0, 16_000, 1)
    for channel in (-1, 3):
        with pytest.raises(AudioError, match=f"clip: has no channel {channel}; channels there: 0 to 2"):
            probe(Segment(content, channel=channel), "clip")
    with pytest.raises(AudioError, match=r"clip: has no channel 1; channels there: 0$"):
        decode(Segment(encoded("WAV", "PCM_16", channels=1), channel=1), sample_rate=16_000, name="clip")


def test_one_of_two_channels_that_cancel_is_heard() -> None:
    left = 0.3 * np.sin(np.arange(16_000) / 8)
    file = io.BytesIO()
    soundfile.write(file, np.stack([left, -left], axis=1), 16_000, format="WAV")
    with pytest.raises(CancellingError):
        decode_whole(Segment(file.getvalue(), 0.2, 0.5), name="clip")
    samples, _ = decode_whole(Segment(file.getvalue(), 0.2, 0.5, 1), name="clip")
    np.testing.assert_allclose(samples, -left[3200:11_200], atol=1e-4)


@pytest.mark.parametrize(
    ("start", "seconds", "said"),
    [
        (4.0, 1.2, r"the segment goes from 4 s to 5\.2 s, but the file is only 5\.000 s long"),
        (5.0, 0.05, r"the segment goes from 5 s to 5\.05 s, but the file is only 5\.000 s long"),
        (5.0, None, r"the segment goes from 5 s to 5 s, but the file is only 5\.000 s long"),
        (9.0, None, "the segment goes from 9 s"),
        (-1.0, 2.0, "a segment begins at 0 s or later and is longer than 0 s; this one begins at -1 s"),
        (1.0, 0.0, "begins at 1 s and is 0 s long"),
        (math.nan, 1.0, "begins at nan s"),
        (1.0, math.inf, "is inf s long"),
        (1.0, 1e308, r"is 1e\+308 s long"),
        (1e308, None, r"begins at 1e\+308 s"),
        (1e308, 1e308, r"begins at 1e\+308 s"),
        (1.0, 0.01, "10.0 ms long; the shortest is 25 ms"),
    ],
)
def test_what_is_not_there(start: float, seconds: float | None, said: str) -> None:
    segment = Segment(encoded("FLAC", "PCM_16"), start, seconds)
    for read in (lambda: probe(segment, "clip"), lambda: decode_whole(segment, name="clip")):
        with pytest.raises(AudioError, match=rf"clip: .*{said}"):
            read()


def test_a_length_that_was_rounded_up_ends_with_the_file() -> None:
    content = encoded("WAV", "PCM_16", seconds=4.96)
    segment = Segment(content, 3.0, 2.0)
    assert probe(segment, "clip")[0] == pytest.approx(1.96)
    assert len(decode(segment, sample_rate=16_000, name="clip")) == round(1.96 * 16_000)


def test_a_segment_takes_its_own_memory_alone() -> None:
    content = encoded("MP3", "MPEG_LAYER_III", seconds=240, rate=8000, channels=1)
    tracemalloc.start()
    samples, _ = decode_whole(Segment(content, 200.0, 1.0), name="clip")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(samples) == 8000
    assert peak < len(content) + 4 * (1 << 20)  # the whole would take 7.7 MB


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        (Segment(b"", 2.0, 2.0), "long.wav [2.00-4.00 s]"),
        (Segment(b"", 2.0, 2.0, 1), "long.wav [2.00-4.00 s, channel 1]"),
        (Segment(b"", 2.125, 0.5), "long.wav [2.125-2.625 s]"),
        (Segment(b"", 3.5), "long.wav [from 3.50 s]"),
        (Segment(b"", channel=0), "long.wav [channel 0]"),
        (Segment(b""), "long.wav"),
        (b"", "long.wav"),
        (Path("x"), "long.wav"),
    ],
)
def test_names(segment: Segment | bytes | Path, name: str) -> None:
    assert clip_name("long.wav", segment) == name
    assert clip_name(name, segment) == name


def test_packing_takes_segments(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(encoded("WAV", "PCM_16", rate=32_000))
    whole, _ = decode_whole(path, name="clip")
    row = Row("long.wav", {"text": "a"}, (Segment(path, 2.0, 1.5, 1),))
    packed = pack_row(row, 0, PackSettings(sample_rate=32_000))
    assert isinstance(packed, PackedRow)
    assert packed.seconds == 1.5
    left = pack_row(
        Row("long.wav", {"text": "a"}, (Segment(path, 2.0, 1.5),)), 0, PackSettings(sample_rate=32_000)
    )
    assert isinstance(left, PackedRow)
    samples, _ = decode_whole(left.members["0.flac"], name="clip")
    np.testing.assert_allclose(samples, whole[64_000:112_000], atol=2**-15)


def test_packing_says_which_segment_it_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(encoded("WAV", "PCM_16"))

    def left_out(*clips: Segment, **settings: float) -> Dropped:
        messages = [
            {"role": "user", "content": [{"type": "audio", "audio": str(i)} for i in range(len(clips))]}
        ]
        messages.append({"role": "assistant", "content": "b"})
        row = Row("r", json.loads(json.dumps({"messages": messages})), clips)
        dropped = pack_row(row, 7, PackSettings(**settings))  # type: ignore[arg-type]
        assert isinstance(dropped, Dropped)
        return dropped

    past = left_out(Segment(path, 4.0, 2.0))
    assert (past.reason, past.seconds) == ("segment that is not in its file", None)
    assert past.detail.startswith("r [4.00-6.00 s]: the segment goes from 4 s to 6 s, but the file")
    long = left_out(Segment(path, 0.0, 0.5), Segment(path, 0.0, 4.0, 1), max_seconds=2.0)
    assert (long.reason, long.seconds) == ("too long", 4.5)
    assert long.detail == "r, clip 1 [0.00-4.00 s, channel 1]: 4.000 s long; the longest is 2 s"
    gone = left_out(Segment(tmp_path / "gone.wav", 0.0, 0.5))
    assert (gone.reason, gone.detail) == ("missing file", f"r: no such file: {tmp_path / 'gone.wav'}")
