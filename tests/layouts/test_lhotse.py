from __future__ import annotations

import copy
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kikimimi.contracts.layout import BadRow, Row, Segment
from kikimimi.data.packing.pack import pack
from kikimimi.data.packing.source import PackSource, find_tars
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import RequestError
from kikimimi_layouts import lhotse as lhotse_layout
from kikimimi_layouts.lhotse import Lhotse
from kikimimi_layouts.manifest import Manifest

pytestmark = pytest.mark.fault(
    "Rows: Lhotse's cuts", "read as Lhotse does; mixed and transformed cuts are malformed rows"
)

Read = Callable[[Lhotse], list[Row | BadRow]]
RECORDING = {
    "id": "long",
    "sources": [{"type": "file", "channels": [0, 1], "source": "wavs/long.wav"}],
    "sampling_rate": 16000,
    "num_samples": 128000,
    "duration": 8.0,
    "channel_ids": [0, 1],
}
# As lhotse 1.33 writes them.
MONO: dict[str, Any] = {
    "id": "cut-2",
    "start": 4.0,
    "duration": 2.0,
    "channel": 1,
    "supervisions": [
        {
            "id": "s2",
            "recording_id": "long",
            "start": 0.0,
            "duration": 2.0,
            "channel": 1,
            "text": "two",
            "language": "en",
            "speaker": "B",
            "gender": "F",
            "custom": {"a": 1},
        }
    ],
    "recording": RECORDING,
    "type": "MonoCut",
}
MULTI: dict[str, Any] = {
    "id": "long-0",
    "start": 0,
    "duration": 8.0,
    "channel": [0, 1],
    "supervisions": [
        {"id": "m1", "recording_id": "long", "start": 1.0, "duration": 2.0, "channel": 0, "text": "one"},
        {"id": "m2", "recording_id": "long", "start": 4.5, "duration": 2.0, "channel": [0, 1], "text": "two"},
    ],
    "recording": RECORDING,
    "type": "MultiCut",
}


def write_cuts(folder: Path, *cuts: Any, name: str = "cuts.jsonl.gz") -> Path:
    folder.mkdir(exist_ok=True)
    content = "".join(json.dumps(cut) + "\n" for cut in cuts).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


def lhotse(path: Path, **options: Any) -> Lhotse:
    return Lhotse(str(path), Lhotse.Config(**options))


def changed(cut: dict[str, Any], **fields: Any) -> dict[str, Any]:
    cut = copy.deepcopy(cut)
    for name, value in fields.items():
        *keys, last = [int(key) if key.isdigit() else key for key in name.split("__")]
        inner: Any = cut
        for key in keys:
            inner = inner[key]
        inner[last] = value
    return cut


@pytest.mark.parametrize("name", ["train_cuts.jsonl.gz", "train_cuts.jsonl"])
def test_supervisions_of_cuts(tmp_path: Path, read: Read, name: str) -> None:
    path = write_cuts(tmp_path, MULTI, MONO, name=name)
    assert PackSource.open(path).name == "lhotse"
    assert not Manifest.matches(path)
    first, second, third = read(lhotse(path))
    file = tmp_path / "wavs/long.wav"
    assert first == Row(
        "m1", {"text": "one", "language": None, "meta": {"recording": "long"}}, (Segment(file, 1.0, 2.0, 0),)
    )
    assert isinstance(second, Row)
    assert second.clips == (Segment(file, 4.5, 2.0, None),)
    assert third == Row(
        "s2",
        {
            "text": "two",
            "language": "en",
            "meta": {"recording": "long", "speaker": "B", "gender": "F", "a": 1},
        },
        (Segment(file, 4.0, 2.0, 1),),
    )


def test_a_start_counts_from_that_of_the_cut(tmp_path: Path, read: Read) -> None:
    cut = changed(MONO, supervisions__0__start=0.5, supervisions__0__duration=1.25)
    (row,) = read(lhotse(write_cuts(tmp_path, cut), root="/data", language="ja", license="CC0-1.0"))
    assert isinstance(row, Row)
    assert row.clips == (Segment(Path("/data/wavs/long.wav"), 4.5, 1.25, 1),)
    assert row.record["language"] == "ja"
    assert row.record["meta"]["license"] == "CC0-1.0"


def test_a_whole_recording_is_the_whole_file(tmp_path: Path, read: Read) -> None:
    whole = {"start": 0.0, "duration": 7.999, "channel": 0, "supervisions__0__duration": 8.0}
    source = {"type": "file", "channels": [0], "source": "/a.mp3"}
    cut = changed(MONO, **whole, recording__sources=[source])
    (row,) = read(lhotse(write_cuts(tmp_path, cut)))
    assert isinstance(row, Row)
    assert row.clips == (Path("/a.mp3"),)


def test_a_file_for_each_channel(tmp_path: Path, read: Read) -> None:
    sources = [{"type": "file", "channels": [channel], "source": f"{channel}.wav"} for channel in (0, 1)]
    (row,) = read(lhotse(write_cuts(tmp_path, changed(MONO, recording__sources=sources))))
    assert isinstance(row, Row)
    assert row.clips == (Segment(tmp_path / "1.wav", 4.0, 2.0),)


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (
            {"id": "x", "tracks": [], "type": "MixedCut"},
            "MixedCut: a cut that is mixed from several is not read",
        ),
        ({"id": "x", "duration": 2.0, "type": "PaddingCut"}, "PaddingCut: a cut that is silence is not read"),
        (changed(MONO, supervisions=[]), "cut cut-2: has no supervision, and so no text"),
        (changed(MONO, recording=None), "has no recording; cuts of features alone are not read"),
        (
            changed(MONO, recording__sources__0={"type": "command", "channels": [0, 1], "source": "cat x"}),
            "its recording is the output of a command, which is never run: cat x",
        ),
        (
            changed(MONO, recording__sources__0={"type": "url", "channels": [0, 1], "source": "http://x/y"}),
            "its recording is not on this machine: download http://x/y first",
        ),
        (
            changed(MONO, recording__sources__0={"type": "shar", "channels": [0, 1], "source": ""}),
            "its recording lies in a tar of Shar, which is not beside the cuts",
        ),
        (
            changed(MONO, recording__sources__0={"type": "memory", "channels": [0, 1], "source": "x"}),
            "its recording is of type 'memory', but files are read",
        ),
        (
            changed(MONO, recording__transforms=[{"name": "Speed", "kwargs": {"factor": 1.1}}]),
            "is changed by Speed when it is read, which is not done here",
        ),
        (changed(MONO, channel=7), "0 sources hold the channel 7"),
        (changed(MULTI, supervisions__0__channel=[0, 3]), "one channel or all of them are taken, not 0, 3"),
        (changed(MONO, supervisions__0__duration=3.0), "from 0 to 3 s, but the cut has only 2 s: part of"),
        (changed(MONO, supervisions__0__start=-1.0), "from -1 to 1 s, but the cut has only 2 s"),
        (changed(MONO, start="x"), "start: expected a number of seconds, not 'x'"),
        (changed(MONO, supervisions__0__text=3), "text: expected a text, not 3"),
        ([1], "expected a mapping, not list"),
    ],
)
def test_what_is_not_read_ends_no_manifest(tmp_path: Path, read: Read, cut: Any, reason: str) -> None:
    found = read(lhotse(write_cuts(tmp_path, MONO, cut, MONO)))
    assert isinstance(found[0], Row)
    assert isinstance(found[1], BadRow)
    assert reason in found[1].reason
    assert isinstance(found[-1], Row)


def test_resampling_changes_no_sound(tmp_path: Path, read: Read) -> None:
    cut = changed(MONO, recording__transforms=[{"name": "Resample", "kwargs": {}}])
    (row,) = read(lhotse(write_cuts(tmp_path, cut)))
    assert isinstance(row, Row)


def test_manifests_that_are_no_cuts(tmp_path: Path) -> None:
    for name, record in (("recordings", RECORDING), ("supervisions", MONO["supervisions"][0])):
        path = write_cuts(tmp_path, record, name=f"{name}.jsonl.gz")
        assert Lhotse.matches(path)
        with pytest.raises(RequestError, match=rf"holds {name}, but cuts are read: CutSet\.from_manifests"):
            lhotse(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"holds no cuts; looked for cuts\.000000\.jsonl\.gz"):
        lhotse(tmp_path / "empty")


def member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(content)
    tar.addfile(about, io.BytesIO(content))


def shar(folder: Path, shards: list[list[str]], **bad: str) -> dict[str, float]:
    """Write cuts and their recordings as lhotse's SharWriter does; return the loudness of each."""
    folder.mkdir()
    loudness: dict[str, float] = {}
    for number, ids in enumerate(shards):
        cuts = []
        with tarfile.open(folder / f"recording.{number:06d}.tar", "w") as tar:
            for name in ids:
                loudness[name] = (1 + len(loudness)) / 20
                buffer = io.BytesIO()
                soundfile.write(buffer, np.full(3200, loudness[name]), 16000, format="FLAC")
                about = {
                    **RECORDING,
                    "sources": [{"type": "shar", "channels": [0], "source": ""}],
                    "num_samples": 3200,
                    "duration": 0.2,
                    "channel_ids": [0],
                }
                member(tar, f"{bad.get(name, name)}.flac", buffer.getvalue())
                member(tar, f"{bad.get(name, name)}.json", json.dumps(about).encode())
                said = {"id": name, "recording_id": "long", "start": 0.0, "duration": 0.2, "channel": 0}
                cuts.append(
                    {
                        "id": name,
                        "start": 0,
                        "duration": 0.2,
                        "channel": 0,
                        "supervisions": [{**said, "text": f"text of {name}"}],
                        "recording": about,
                        "type": "MonoCut",
                    }
                )
        write_cuts(folder, *cuts, name=f"cuts.{number:06d}.jsonl.gz")
    return loudness


def test_shar(tmp_path: Path, read: Read) -> None:
    folder = tmp_path / "shar"
    loudness = shar(folder, [["a", "b/1.x"], ["c"], ["d", "e", "f"]])
    assert find_tars(str(folder)) == []
    assert PackSource.open(folder).name == "lhotse"
    assert len(read(lhotse(folder))) == 6
    report = pack(folder, tmp_path / "out", records_per_shard=4, options=["language=en"])
    assert report.records == 6
    shards = Shards("packed", report.pattern)
    for row, (name, loud) in enumerate(loudness.items()):
        record = shards.read(row)
        assert record.json["text"] == f"text of {name}"
        samples, _ = soundfile.read(io.BytesIO(record.audio["0.flac"]))
        assert len(samples) == 3200
        assert samples.mean() == pytest.approx(loud, abs=1e-3)


def test_one_file_of_shar(tmp_path: Path, read: Read) -> None:
    shar(tmp_path / "shar", [["a", "b"], ["c"]])
    (row,) = read(lhotse(tmp_path / "shar/cuts.000001.jsonl.gz"))
    assert isinstance(row, Row)
    assert row.name == "c"


def test_a_tar_that_breaks_off(tmp_path: Path, read: Read) -> None:
    shar(tmp_path / "shar", [["a", "b"], ["c"]])
    tar = tmp_path / "shar/recording.000000.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[: content.index(b"b.flac") + 700])
    first, second, third = read(lhotse(tmp_path / "shar"))
    assert isinstance(first, Row)
    assert isinstance(second, BadRow)
    assert "recording.000000.tar: cannot be read any further: member 'b.flac' breaks off" in second.reason
    assert isinstance(third, Row)


def test_a_member_that_is_too_large_is_not_read(
    tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lhotse_layout, "MAX_MEMBER", 1 << 20)
    shar(tmp_path / "shar", [["a", "b"]])
    tar = tmp_path / "shar/recording.000000.tar"
    content, size = tar.read_bytes(), 1 << 35
    after = content.index(b"a.json")  # its header
    about = tarfile.TarInfo("a.flac")
    about.size = size
    with tar.open("wb") as file:
        file.seek(file.write(about.tobuf()) + size)  # sparse
        file.write(content[after:])
    first, second = read(lhotse(tmp_path / "shar"))
    assert isinstance(first, BadRow)
    assert "a.flac has 34,359,738,368 bytes; at most 1,048,576 are read" in first.reason
    assert isinstance(second, Row)


def test_a_recording_of_another_cut(tmp_path: Path, read: Read) -> None:
    shar(tmp_path / "shar", [["a", "b"]], b="x")
    _, second = read(lhotse(tmp_path / "shar"))
    assert isinstance(second, BadRow)
    assert "cut b: the tar has the recording of x in its place" in second.reason


def test_a_cut_without_a_recording(tmp_path: Path, read: Read) -> None:
    shar(tmp_path / "shar", [["a"]])
    with tarfile.open(tmp_path / "shar/recording.000000.tar", "w") as tar:
        member(tar, "a.nodata", b"")
        member(tar, "a.nometa", b"")
    (row,) = read(lhotse(tmp_path / "shar"))
    assert isinstance(row, BadRow)
    assert "holds no recording of a" in row.reason


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("English", "en"),
        (" japanese ", "ja"),
        ("Mandarin", "zh"),
        ("zh-TW", "zh-TW"),
        ("Elvish", "Elvish"),
        (7, 7),
    ],
)
def test_names_of_languages_as_recipes_of_lhotse_write_them(
    tmp_path: Path, read: Read, said: Any, code: Any
) -> None:
    cut = copy.deepcopy(MONO)
    cut["supervisions"][0]["language"] = said
    path = write_cuts(tmp_path, cut)
    (row,) = read(Lhotse(str(path), Lhotse.Config()))
    assert isinstance(row, Row)
    assert row.record["language"] == code
