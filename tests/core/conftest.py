"""What many tests of the core share: pretended distributions, tones, small shards."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import soundfile

from kikimimi.contracts import registry
from kikimimi.data.audio import encode_flac

Tone = Callable[..., bytes]
WriteTar = Callable[..., Path]


def tone_samples(seconds: float, rate: int, channels: int = 1) -> Any:
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return wave if channels == 1 else np.stack([wave] * channels, axis=1)


@pytest.fixture
def tone() -> Tone:
    """Make an audio file of a 440 Hz tone."""

    def make(
        seconds: float = 1.0,
        rate: int = 16_000,
        kind: str = "WAV",
        subtype: str | None = None,
        channels: int = 1,
    ) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, tone_samples(seconds, rate, channels), rate, format=kind, subtype=subtype)
        return buffer.getvalue()

    return make


@pytest.fixture
def write_tar(tmp_path: Path) -> WriteTar:
    """Write a tar of (name, content) members; a TarInfo instead of a name is taken as it is."""

    def write(members: Sequence[tuple[str | tarfile.TarInfo, bytes]], name: str = "train-000000.tar") -> Path:
        path = tmp_path / name
        with tarfile.open(path, "w") as tar:
            for member, content in members:
                info = tarfile.TarInfo(member) if isinstance(member, str) else member
                if isinstance(member, str):
                    info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


def labelled(key: str, text: str = "こんにちは", seconds: float = 0.5) -> list[tuple[str, bytes]]:
    samples = tone_samples(seconds, 16_000).astype(np.float32)
    data = json.dumps({"text": text, "language": "ja"}, ensure_ascii=False).encode()
    return [(f"{key}.json", data), (f"{key}.0.flac", encode_flac(samples, 16_000))]


@pytest.fixture
def shard(write_tar: WriteTar) -> Callable[..., Path]:
    """Write a shard of labelled clips of 0.5, 0.6, 0.7 ... seconds."""

    def write(records: int = 5, name: str = "train-000000.tar") -> Path:
        members = [
            member
            for i in range(records)
            for member in labelled(f"{name[:-4]}-{i}", "あ" * (i + 1), 0.5 + 0.1 * i)
        ]
        return write_tar(members, name)

    return write


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Wait until something is so."""

    def wait(what: Callable[[], bool]) -> None:
        end = time.monotonic() + 240
        while not what():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)

    return wait


@pytest.fixture
def ended() -> Callable[[set[int]], bool]:
    """Tell whether processes have ended, be it that nobody has asked yet how."""

    def look(process: int) -> bool:
        try:
            return ") Z " in Path(f"/proc/{process}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True

    return lambda processes: all(map(look, processes))


class Install(Protocol):
    def __call__(
        self,
        name: str,
        entry_points: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, str],
        version: str = ...,
    ) -> Path: ...


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Write a distribution (metadata, entry points, modules) and put it on the path until the test ends."""
    written: list[str] = []

    def install(
        name: str,
        entry_points: Mapping[str, Mapping[str, str]],
        modules: Mapping[str, str],
        version: str = "1.0",
    ) -> Path:
        site = tmp_path / f"site-{name}"
        metadata = site / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines: list[str] = []
        for group, entries in entry_points.items():
            lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
        (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for module, source in modules.items():
            (site / f"{module}.py").write_text(source)
            written.append(module)
        monkeypatch.syspath_prepend(site)
        registry.refresh()
        return site

    yield install
    for module in written:
        sys.modules.pop(module, None)
    registry.refresh()
