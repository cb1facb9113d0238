from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kikimimi.data import pack as module
from kikimimi.data.audio import decode
from kikimimi.data.pack import pack
from kikimimi.data.shards import Shards
from kikimimi.errors import DataError, RequestError
from kikimimi.progress import Progress

Tone = Callable[..., bytes]


@pytest.fixture
def manifest(tmp_path: Path, tone: Tone) -> Path:
    """Five good rows, and one of each kind that is dropped."""
    folder = tmp_path / "raw"
    folder.mkdir()
    lines = ["path,text,language,speaker"]
    for i in range(5):
        (folder / f"{i}.wav").write_bytes(tone(1.0 + i / 10, 44_100, channels=2))
        lines.append(f"{i}.wav,文{i},ja,{i % 2}")
    (folder / "mute.wav").write_bytes(tone(2.0))
    (folder / "broken.wav").write_bytes(tone(2.0)[:1000])
    lines[2:2] = ["gone.wav,文,ja,0", "mute.wav, ,ja,0", "broken.wav,文,ja,0"]
    path = folder / "train.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_packs_and_counts_what_is_dropped(manifest: Path, tmp_path: Path) -> None:
    report = pack(manifest, tmp_path / "out", records_per_shard=3)
    assert report.pattern == str(tmp_path / "out" / "shard-{000000..000002}.tar")
    assert (report.rows, report.records, report.kept_shards, report.silent) == (8, 5, 0, 0)
    assert report.seconds == pytest.approx(6.0)
    assert report.dropped() == {
        "missing file": {"rows": 1, "seconds": 0.0, "rows_of_unknown_length": 1},
        "empty text": {"rows": 1, "seconds": 2.0, "rows_of_unknown_length": 0},
        "undecodable audio": {"rows": 1, "seconds": 0.0, "rows_of_unknown_length": 1},
    }
    summary = report.summary()
    assert summary.startswith("5 of 8 rows, 0:06 of audio, 3 shards (0 were there before): ")
    assert summary.endswith(
        "dropped: 1 missing file (0:00, 1 of unknown length), 1 empty text (0:02), "
        "1 undecodable audio (0:00, 1 of unknown length)"
    )
    ledger = json.loads((tmp_path / "out" / "ledger.json").read_text(encoding="utf-8"))
    assert ledger["dropped"] == report.dropped()
    assert [(drop["row"], drop["path"]) for drop in ledger["dropped_rows"]] == [
        (1, "gone.wav"),
        (2, "mute.wav"),
        (3, "broken.wav"),
    ]
    assert "breaks off" in ledger["dropped_rows"][2]["detail"]
    assert [shard["records"] for shard in ledger["shards"]] == [1, 2, 2]

    shards = Shards("d", report.pattern)
    np.testing.assert_allclose(shards.seconds, [1.0, 1.1, 1.2, 1.3, 1.4], atol=1e-4)
    record = shards.read(1)
    assert record.json == {"text": "文1", "language": "ja", "meta": {"speaker": "1"}}
    assert list(record.audio) == ["0.flac"]
    assert len(decode(record.audio["0.flac"], sample_rate=16_000, name="clip")) == 17_600


def test_same_input_gives_the_same_bytes(manifest: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        pack(manifest, tmp_path / out, records_per_shard=4)
    for name in ("shard-000000.tar", "shard-000001.tar", "shard-000001.tar.index.safetensors", "ledger.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_goes_on_after_an_interruption(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tone: Tone
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    pack(manifest, whole, records_per_shard=3)
    calls = 0

    def interrupted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return decode(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(manifest, out, records_per_shard=3)
    assert sorted(path.name for path in out.glob("*")) == [
        "shard-000000.tar",
        "shard-000000.tar.index.safetensors",
        "shard-000000.tar.pack.json",
    ]
    report = pack(manifest, out, records_per_shard=3)
    assert report.kept_shards == 1
    for path in whole.iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes()

    (manifest.parent / "4.wav").write_bytes(tone(0.5))
    again = pack(manifest, out, records_per_shard=3)
    assert again.kept_shards == 2
    assert Shards("d", again.pattern).seconds[-1] == 0.5
    assert pack(manifest, out, records_per_shard=3, sample_rate=8000).kept_shards == 0


def test_silent_clips_are_kept_and_counted(tmp_path: Path, tone: Tone) -> None:
    (tmp_path / "a.wav").write_bytes(b"".join([tone(1.0)[:44], bytes(32_000)]))
    (tmp_path / "m.csv").write_text("path,text\na.wav,静か\n", encoding="utf-8")
    report = pack(tmp_path / "m.csv", tmp_path / "out")
    assert (report.records, report.silent) == (1, 1)
    assert report.summary().endswith("silent but kept: 1")
    assert report.pattern == str(tmp_path / "out" / "shard-000000.tar")
    assert Shards("d", report.pattern).read(0).json["language"] is None


def test_progress_counts_rows(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with Progress("Packing", 8, "clips") as progress:
            pack(manifest, tmp_path / "out", records_per_shard=3, progress=progress)
        assert progress.done == 8
    assert "Packing: 8/8 clips" in capsys.readouterr().err


def test_refuses(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="prefix 'a/b' must be a plain file name"):
        pack(manifest, tmp_path / "out", prefix="a/b")
    with pytest.raises(RequestError, match="records_per_shard and sample_rate must be at least 1"):
        pack(manifest, tmp_path / "out", records_per_shard=0)
    pack(manifest, tmp_path / "out", records_per_shard=2)
    with pytest.raises(RequestError, match=r"holds shard-000001\.tar, which this manifest does not make"):
        pack(manifest, tmp_path / "out", records_per_shard=8)
    (tmp_path / "none.csv").write_text("path,text\ngone.wav,x\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"none of its 1 rows can be used; .*ledger\.json says why"):
        pack(tmp_path / "none.csv", tmp_path / "none")
    assert json.loads((tmp_path / "none" / "ledger.json").read_text())["dropped"]["missing file"]["rows"] == 1
