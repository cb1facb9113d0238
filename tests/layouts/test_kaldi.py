from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kikimimi.contracts.layout import BadRow, Row, Segment
from kikimimi.data.packing.pack import pack
from kikimimi.data.packing.source import PackSource
from kikimimi.errors import RequestError
from kikimimi_layouts.kaldi import Kaldi

pytestmark = pytest.mark.fault("Rows: Kaldi's folders", "read; commands and archives are malformed rows")

Write = Callable[..., Path]
Read = Callable[[Kaldi], list[Row | BadRow]]
# As Kaldi's documentation has them, but for the commands of wav.scp.
FOLDER: dict[str, str | None] = {
    "wav.scp": "sw02001-A wav/sw02001.wav\nsw02001-B\twav/sw02001.wav\nsw02005-A wav/my sw02005.wav\n",
    "segments": "sw02001-A_000098-001156 sw02001-A 0.98 11.56\n"
    "sw02001-B_001980-002131 sw02001-B 19.8 21.31\n"
    "sw02005-A_000000-000100 sw02005-A 3.5 -1\n",
    "text": "sw02001-A_000098-001156 HI UM YEAH\r\n"
    "sw02001-B_001980-002131\tUM-HUM\u2028今日は　晴れ\n"
    "sw02005-A_000000-000100 AND IS\n",
    "utt2spk": "sw02001-A_000098-001156 2001-A\nsw02001-B_001980-002131 2001-B\n",
    "spk2gender": "2001-A f\n2001-B m\n",
    "utt2lang": "sw02001-A_000098-001156 English\n",
    "reco2file_and_channel": "sw02001-A sw02001 A\nsw02001-B sw02001 B\nsw02005-A sw02005 B\n",
}


def kaldi(folder: Path, **options: str) -> Kaldi:
    return Kaldi(str(folder), Kaldi.Config(**options))


def test_segments_of_recordings(write: Write, read: Read) -> None:
    folder = write(FOLDER)
    assert PackSource.open(folder).name == "kaldi"
    first, second, third = read(kaldi(folder))
    assert first == Row(
        "sw02001-A_000098-001156",
        {
            "text": "HI UM YEAH",
            "language": "en",
            "meta": {
                "utterance": "sw02001-A_000098-001156",
                "recording": "sw02001-A",
                "speaker": "2001-A",
                "gender": "f",
            },
        },
        (Segment(folder / "wav/sw02001.wav", 0.98, 10.58, 0),),
    )
    assert isinstance(second, Row)
    assert second.clips == (Segment(folder / "wav/sw02001.wav", 19.8, 1.51, 1),)
    assert second.record["text"] == "UM-HUM\u2028今日は　晴れ"
    assert isinstance(third, Row)
    assert third.clips == (Segment(folder / "wav/my sw02005.wav", 3.5),)
    assert third.record["language"] is None


def test_recordings_are_utterances(write: Write, read: Read, tmp_path: Path) -> None:
    folder = write({"wav.scp": "b wav/b.wav\na /abs/a.flac\n", "text": "a x\nb y\n"})
    options = {"root": str(tmp_path / "egs"), "language": "ja", "license": "CC0-1.0"}
    assert read(kaldi(folder, **options)) == [
        Row(
            name,
            {
                "text": text,
                "language": "ja",
                "meta": {"utterance": name, "recording": name, "license": "CC0-1.0"},
            },
            (file,),
        )
        for name, text, file in (
            ("b", "y", tmp_path / "egs/wav/b.wav"),
            ("a", "x", Path("/abs/a.flac")),
        )
    ]


def test_a_channel_of_a_segment(write: Write, read: Read) -> None:
    folder = write({"wav.scp": "r r.wav\n", "segments": "u r 0 1 1\n", "text": "u x\n"})
    (row,) = read(kaldi(folder))
    assert isinstance(row, Row)
    assert row.clips == (Segment(folder / "r.wav", 0.0, 1.0, 1),)


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("wav.scp", "u sph2pipe -f wav u.sph |", "sph2pipe -f wav u.sph | is a command, and never run"),
        ("wav.scp", "u |cat", "is a command, and never run"),
        ("wav.scp", "u -", "names no audio file"),
        ("wav.scp", "u", "names no audio file"),
        ("wav.scp", "u data/wav.1.ark:24", "is a place in an archive of Kaldi, which is not read"),
        ("wav.scp", "v v.wav\nv w.wav", "v is there twice"),
        ("segments", "u v 1", "expected UTTERANCE RECORDING START END, and perhaps a CHANNEL"),
        ("segments", "u v x 2", "segments:2: expected UTTERANCE RECORDING START END"),
        ("segments", "u v 2 1", "expected UTTERANCE"),
        ("segments", "u v 0 nan", "expected UTTERANCE"),
        ("segments", "u v 0 1 -2", "expected UTTERANCE"),
        ("segments", "u u 0 1\nu u 1 2", "segments:3: u is there twice"),
        ("segments", "u gone 0 1", "wav.scp has no recording gone"),
        ("text", "u x\nu y", "text:3: u is there twice"),
        ("text", "lost x", "utterance lost is not in segments"),
    ],
)
def test_one_line_ends_no_folder(write: Write, read: Read, file: str, line: str, reason: str) -> None:
    files = {"wav.scp": "r r.wav\n", "segments": "good r 0 1\n", "text": "good x\n"}
    lines = {"wav.scp": "u u.wav\n", "segments": "u u 0 1\n", "text": "u x\n"}
    if line.startswith("v v.wav"):
        lines["segments"] = "u v 0 1\n"
    lines[file] = f"{line}\n"
    found = read(kaldi(write({name: files[name] + lines[name] for name in files})))
    assert isinstance(found[0], Row)
    assert any(isinstance(row, BadRow) and reason in row.reason for row in found[1:]), found


def test_bytes_that_are_no_text(write: Write, read: Read) -> None:
    folder = write({"wav.scp": "a a.wav\nb b.wav\n"})
    (folder / "text").write_bytes(b"a \xff\xfe\nb x\n")
    bad, good = read(kaldi(folder))
    assert isinstance(bad, BadRow)
    assert "text:1: not UTF-8" in bad.reason
    assert isinstance(good, Row)


def test_what_is_missing(write: Write) -> None:
    with pytest.raises(RequestError, match=r"there is no text \(the transcript of each utterance\)"):
        kaldi(write({"wav.scp": "a a.wav\n"}))
    with pytest.raises(RequestError, match=r"wav\.scp: sox a \| is a command, and never run.*COMMAND > NAME"):
        kaldi(write({"wav.scp": "a sox a |\n", "text": "a x\n"}))
    with pytest.raises(RequestError, match="holds no utterances"):
        kaldi(write({"wav.scp": "\n", "text": ""}))


def test_packed(write: Write, tmp_path: Path) -> None:
    folder = write(
        {
            "wav.scp": "r r.wav\np cat r.wav |\n",
            "segments": "a r 0 0.1\nb r 0.1 -1\nc p 0 0.1\nd r 0.1 9\n",
            "text": "a x\nb y\nc z\n",
            "r.wav": None,
        }
    )
    report = pack(folder, tmp_path / "out", options=["language=ja"])
    assert (report.records, report.rows) == (2, 4)
    assert report.seconds == pytest.approx(0.2)
    assert {reason: counts["rows"] for reason, counts in report.dropped().items()} == {
        "empty text": 1,
        "malformed": 1,
    }


def test_a_wav_scp_that_names_nothing(write: Write) -> None:
    folder = write({**FOLDER, "wav.scp": "\n"})
    for row in kaldi(folder).rows(0, 3):
        assert isinstance(row, BadRow)
