from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kikimimi.console.progress import Progress
from kikimimi.console.words import amount
from kikimimi.data.audio import decode, decode_opened
from kikimimi.data.packing import row as pack_row
from kikimimi.data.packing.pack import pack
from kikimimi.data.shards.shards import Shards
from kikimimi.data.stream import Stream
from kikimimi.errors import DamagedError, DataError, RequestError

Tone = Callable[..., bytes]


@pytest.fixture
def manifest(tmp_path: Path, tone: Tone) -> Path:
    """Five good rows, and one of each kind that is dropped in any case."""
    folder = tmp_path / "raw"
    folder.mkdir()
    lines = ["path,text,language,speaker,license"]
    for i in range(5):
        (folder / f"{i}.wav").write_bytes(tone(1.0 + i / 10, 44_100, channels=2))
        lines.append(f"{i}.wav,文{i},ja,{i % 2},{'CC0-1.0' if i < 3 else 'CC-BY-4.0'}")
    (folder / "mute.wav").write_bytes(tone(2.0))
    (folder / "broken.wav").write_bytes(tone(2.0)[:1000])
    lines[2:2] = ["gone.wav,文,ja,0,CC0-1.0", "mute.wav, ,ja,0,CC0-1.0", "broken.wav,文,ja,0,"]
    path = folder / "train.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def ledger(out: Path) -> Any:
    return json.loads((out / "ledger.json").read_text(encoding="utf-8"))


def dropped(out: Path) -> list[Any]:
    return [json.loads(line) for line in (out / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_packs_and_counts_what_is_dropped(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = pack(manifest, out, records_per_shard=3)
    assert report.pattern == str(out / "shard-{000000..000002}.tar")
    assert (report.rows, report.records, report.kept_shards, report.silent) == (8, 5, 0, 0)
    assert report.seconds == pytest.approx(6.0)
    assert report.dropped() == {
        "empty text": {"rows": 1, "seconds": 2.0, "hours": 0.0006, "rows_of_unknown_length": 0},
        "missing file": {"rows": 1, "seconds": 0.0, "hours": 0.0, "rows_of_unknown_length": 1},
        "undecodable audio": {"rows": 1, "seconds": 0.0, "hours": 0.0, "rows_of_unknown_length": 1},
    }
    assert report.summary().splitlines() == [
        f"5 of 8 rows, 6.0 seconds of audio, 3 shards (0 were there before): {report.pattern}",
        "  dropped: 1 empty text (2.0 seconds)",
        "  dropped: 1 missing file (1 of unknown length)",
        "  dropped: 1 undecodable audio (1 of unknown length)",
        f"  each of them, with the reason: {out / 'dropped.jsonl'}",
    ]
    account = ledger(out)
    assert account["dropped"] == report.dropped()
    assert (account["rows"], account["records"], account["seconds"], account["hours"]) == (8, 5, 6.0, 0.0017)
    assert account["licenses"] == {"CC0-1.0": 5, "CC-BY-4.0": 2, "unknown": 1}
    assert (account["source"], account["layout"], account["prefix"]) == ("train.csv", "manifest", "shard")
    assert account["settings"]["codec"] == "flac"
    assert [shard["records"] for shard in account["shards"]] == [1, 2, 2]
    lines = dropped(out)
    assert [(drop["row"], drop["name"], drop["reason"], drop["seconds"]) for drop in lines] == [
        (1, "gone.wav", "missing file", None),
        (2, "mute.wav", "empty text", 2.0),
        (3, "broken.wav", "undecodable audio", None),
    ]
    assert "gone.wav: no such file: " in lines[0]["detail"]
    assert "mute.wav: has no transcript" in lines[1]["detail"]
    assert "breaks off" in lines[2]["detail"]

    shards = Shards("d", report.pattern)
    np.testing.assert_allclose(shards.seconds, [1.0, 1.1, 1.2, 1.3, 1.4], atol=1e-4)
    record = shards.read(1)
    assert record.key == "000000004"
    assert record.json["text"] == "文1"
    assert record.json["meta"] == {"speaker": "1", "license": "CC0-1.0"}
    assert list(record.audio) == ["0.flac"]
    assert len(decode(record.audio["0.flac"], sample_rate=16_000, name="clip")) == 17_600


@pytest.mark.parametrize("codec", ["flac", "opus"])
def test_same_input_gives_the_same_bytes(manifest: Path, tmp_path: Path, codec: Any) -> None:
    for out in ("a", "b"):
        pack(manifest, tmp_path / out, records_per_shard=4, codec=codec)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    shards = Shards("d", str(tmp_path / "a" / "*.tar"))
    assert list(shards.read(4).audio) == [f"0.{codec}"]
    np.testing.assert_allclose(shards.seconds, [1.0, 1.1, 1.2, 1.3, 1.4], atol=1e-4)


def test_what_changes_is_made_again_and_nothing_else(manifest: Path, tmp_path: Path, tone: Tone) -> None:
    out = tmp_path / "out"
    pack(manifest, out, records_per_shard=3)
    before = contents(out)
    assert pack(manifest, out, records_per_shard=3).kept_shards == 3
    assert contents(out) == before

    (manifest.parent / "4.wav").write_bytes(tone(0.5))
    again = pack(manifest, out, records_per_shard=3)
    assert again.kept_shards == 2
    assert Shards("d", again.pattern).seconds[-1] == 0.5

    assert pack(manifest, out, records_per_shard=3, licenses=["CC0-1.0", "CC-BY-4.0"]).kept_shards == 0
    assert pack(manifest, out, records_per_shard=3, licenses=["CC-BY-4.0", "CC0-1.0"]).kept_shards == 3
    changes: list[dict[str, Any]] = [
        {"sample_rate": 8000},
        {"codec": "opus"},
        {"max_seconds": 1.2},
        {"min_seconds": 1.2},
    ]
    for change in changes:
        assert pack(manifest, out, records_per_shard=3, **change).kept_shards == 0
    (out / "shard-000001.tar").write_bytes(b"")  # as after the machine has crashed
    assert pack(manifest, out, records_per_shard=3, min_seconds=1.2).kept_shards == 2


def test_a_damaged_note_means_the_shard_is_made_again(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(manifest, out, records_per_shard=3)
    before = contents(out)
    for number, damage in enumerate(["", "[]\n", '{"name": 1}\n']):
        (out / f"shard-00000{number}.tar.pack.jsonl").write_text(damage)
    assert pack(manifest, out, records_per_shard=3).kept_shards == 0
    assert contents(out) == before


def test_filters_of_length(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = pack(manifest, out, min_seconds=1.05, max_seconds=1.3)
    assert [round(seconds, 3) for seconds in Shards("d", report.pattern).seconds.tolist()] == [1.1, 1.2, 1.3]
    assert report.dropped()["too short"] == {
        "rows": 1,
        "seconds": 1.0,
        "hours": 0.0003,
        "rows_of_unknown_length": 0,
    }
    assert report.dropped()["too long"]["seconds"] == 1.4
    details = [drop["detail"] for drop in dropped(out)]
    assert "0.wav: 1.000 s long; the shortest is 1.05 s" in details
    assert "4.wav: 1.400 s long; the longest is 1.3 s" in details


def test_a_file_that_is_too_long_is_not_decoded(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def watched(stream: Stream, sample_rate: int) -> Any:
        decoded.append(stream.name)
        return decode_opened(stream, sample_rate)

    monkeypatch.setattr(pack_row, "decode_opened", watched)
    pack(manifest, tmp_path / "out", max_seconds=1.1, licenses=["CC0-1.0"])
    assert decoded == ["0.wav", "1.wav"]


def test_clips_are_resampled_on_one_thread(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        used.append(torch.get_num_threads())
        return decode_opened(*arguments, **options)

    monkeypatch.setattr(pack_row, "decode_opened", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pack(manifest, tmp_path / "a")
        pack(manifest, tmp_path / "b", sample_rate=44_100)  # as they are: torch has nothing to do
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert used == [1] * 5 + [2] * 5


def test_filter_of_licences(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = pack(manifest, out, licenses=["CC-BY-4.0", "CC-BY-40"])
    assert report.records == 2
    # The licence comes first: what may not be used is left out for that, whatever else is wrong with it.
    assert report.dropped()["licence"] == {
        "rows": 6,
        "seconds": 5.3,
        "hours": 0.0015,
        "rows_of_unknown_length": 2,
    }
    assert list(report.dropped()) == ["licence"]
    details = [drop["detail"] for drop in dropped(out)]
    assert details[0] == "0.wav: has the licence CC0-1.0"
    assert details[3] == "broken.wav: names no licence"
    assert "no row has the licence CC-BY-40. Did you mean 'CC-BY-4.0'?" in report.summary()

    with pytest.raises(
        RequestError,
        match=r"no row has the licence CC0-1\.O\. Did you mean 'CC0-1\.0'\? "
        r"Licences there: CC0-1\.0 \(5 rows\), CC-BY-4\.0 \(2 rows\), unknown \(1 row\)",
    ):
        pack(manifest, out, licenses=["CC0-1.O"])


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


def test_lengths_are_said_in_hours() -> None:
    assert [amount(s) for s in (6, 150, 3600, 4_444_200)] == [
        "6.0 seconds",
        "2.5 minutes",
        "1.0 hours",
        "1,234.5 hours",
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prefix": "a/b"}, "prefix: must be a plain file name .*, not 'a/b'"),
        ({"prefix": ".a"}, "and not hidden"),
        ({"records_per_shard": 0}, "records_per_shard: must be at least 1, not 0"),
        ({"workers": 0}, "workers: must be at least 1, not 0"),
        ({"sample_rate": 16}, "sample_rate: must be at least 1000 and at most 655350, not 16"),
        ({"codec": "flak"}, r"codec: 'flak' is not one of flac, opus\. Did you mean 'flac'\?"),
        ({"codec": "opus", "sample_rate": 22_050}, "Opus has no sampling rate of 22050 Hz"),
        ({"min_seconds": 0.0}, "min_seconds: must be above 0, not 0"),
        ({"max_seconds": float("nan")}, "max_seconds: must be above 0, not nan"),
        ({"min_seconds": 3, "max_seconds": 2}, r"min_seconds \(3\) must not be above max_seconds \(2\)"),
        ({"licenses": [" "]}, r"licenses\[0\]: must not be blank"),
        ({"layout": "manifets"}, r"no layout is called 'manifets'\. Did you mean 'manifest'\?"),
    ],
)
def test_refuses_settings(manifest: Path, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        pack(manifest, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_refuses_a_folder_with_other_shards(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(manifest, out, records_per_shard=2)
    with pytest.raises(RequestError, match=r"holds shard-000001\.tar, which this corpus does not make"):
        pack(manifest, out, records_per_shard=8)
    with pytest.raises(RequestError, match=r"holds the shards shard-\*\.tar and their ledger\.json"):
        pack(manifest, out, records_per_shard=2, prefix="train")
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="file: cannot be made a folder for shards: File exists"):
        pack(manifest, tmp_path / "file")


@pytest.mark.fault("Our files: a damaged ledger where is packed", "an error before the work, and it stays")
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"prefix": "shard"', None])
def test_a_damaged_ledger_is_not_overwritten(manifest: Path, tmp_path: Path, content: bytes | None) -> None:
    """It may be that of other shards in the folder."""
    out = tmp_path / "out"
    pack(manifest, out, records_per_shard=2)
    whole = (out / "ledger.json").read_bytes()
    (out / "ledger.json").unlink()
    if content is None:
        (out / "ledger.json").symlink_to(tmp_path / "unmounted")
    else:
        (out / "ledger.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"out/ledger\.json: .* Delete it: 'kikimimi data pack' makes it"):
        pack(manifest, out, records_per_shard=2, prefix="train")
    assert (out / "ledger.json").is_symlink() or (out / "ledger.json").read_bytes() == content
    assert not list(out.glob("train-*"))
    (out / "ledger.json").unlink()
    pack(manifest, out, records_per_shard=2)
    assert (out / "ledger.json").read_bytes() == whole


def test_refuses_when_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("path,text\ngone.wav,x\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"none of its 1 row can be used; .*dropped\.jsonl says why"):
        pack(tmp_path / "none.csv", tmp_path / "none")
    account = ledger(tmp_path / "none")
    assert account["dropped"]["missing file"]["rows"] == 1
    assert account["shards"] == []
    assert [drop["name"] for drop in dropped(tmp_path / "none")] == ["gone.wav"]
    assert sorted(contents(tmp_path / "none")) == ["dropped.jsonl", "ledger.json"]


def test_what_was_left_half_written_is_removed(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pack(manifest, tmp_path / "whole", records_per_shard=3)
    out.mkdir()
    index = ".shard-000000.tar.index.safetensors.77.tmp"
    for name in ("shard-000000.tar.77.tmp", index, ".ledger.json.7.tmp", "dropped.jsonl.7.tmp"):
        (out / name).write_bytes(b"half")
    (out / "mine.tmp").write_bytes(b"")
    pack(manifest, out, records_per_shard=3)
    assert set(contents(out)) == {*contents(tmp_path / "whole"), "mine.tmp"}
    assert not [name for name in contents(out) if re.search(r"\.\d+\.tmp", name)]
