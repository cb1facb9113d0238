from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kikimimi.contracts.layout import Layout


def tone(seconds: float = 0.2, rate: int = 16_000, kind: str = "WAV") -> bytes:
    """Return an audio file of a 440 Hz tone."""
    buffer = io.BytesIO()
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(buffer, wave, rate, format=kind)
    return buffer.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write files below the test's folder: a text, or a tone where there is none."""

    def write(files: dict[str, str | None], folder: str = "corpus") -> Path:
        for name, content in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.write_bytes(tone(kind=path.suffix[1:].upper()))
            else:
                path.write_text(content, encoding="utf-8")
        return tmp_path / folder

    return write


@pytest.fixture
def read() -> Callable[[Layout], list[Any]]:
    """Read every row, and check that any range gives the same ones."""

    def read(layout: Layout) -> list[Any]:
        found = list(layout.rows(0, len(layout)))
        assert len(found) == len(layout)
        for begin in range(len(found) + 1):
            assert list(layout.rows(begin, len(found))) == found[begin:]
            assert list(layout.rows(0, begin)) == found[:begin]
        assert layout.fingerprint(0, len(layout)) == layout.fingerprint(0, len(layout))
        return found

    return read


@pytest.fixture(name="tone")
def _tone() -> bytes:
    """Make an audio file."""
    return tone()
