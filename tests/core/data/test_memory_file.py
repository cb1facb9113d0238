from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from kikimimi.data.audio import decode_whole, encode_flac, probe
from kikimimi.data.memory_file import memory_file, whole
from kikimimi.data.opus import encode_opus

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
