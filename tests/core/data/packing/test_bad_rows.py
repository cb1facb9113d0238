"""One row ends no corpus: it is left out and counted, or what is wrong with it is not worth the row."""

from __future__ import annotations

import datetime
import decimal
import json
import os
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from kikimimi.cli.data import app
from kikimimi.contracts.layout import BadRow, Clip, Layout, LayoutConfig, Row, Segment, as_on_disk
from kikimimi.data.audio import probe
from kikimimi.data.packing.clips import MissingClipError, located
from kikimimi.data.packing.meta import json_value
from kikimimi.data.packing.pack import pack
from kikimimi.data.packing.source import PackSource, find_tars
from kikimimi.data.shards.shards import Shards
from kikimimi.errors import DataError, RequestError

pytestmark = pytest.mark.fault(
    "Rows: a bad one among good ones", "left out and counted; `bad_rows=fail` stops at it"
)

Tone = Callable[..., bytes]


class Rows(Layout):
    """A layout of rows that stand in a list."""

    def __init__(self, rows: list[Row | BadRow]) -> None:
        super().__init__("rows", LayoutConfig())
        self._rows = rows

    @classmethod
    def matches(cls, path: Path) -> bool:
        return False

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        return iter(self._rows[begin:end])


def source(*rows: Row | BadRow) -> PackSource:
    return PackSource("rows", "rows", LayoutConfig(), Rows(list(rows)))


def clip(tone: Tone, number: int = 0, **record: Any) -> Row:
    return Row(f"row{number}", {"text": "x", **record}, (tone(0.2),))


def dropped(out: Path) -> list[Any]:
    return [json.loads(line) for line in (out / "dropped.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]


def test_a_bad_row_is_counted(tone: Tone, tmp_path: Path) -> None:
    rows = source(
        clip(tone, 0), BadRow("list:2", "list:2: no"), clip(tone, 2), BadRow("list:4", "list:4: no")
    )
    report = pack(rows, tmp_path, records_per_shard=3)
    assert (report.records, report.rows) == (2, 4)
    assert report.dropped()["malformed"] == {
        "rows": 2,
        "seconds": 0.0,
        "hours": 0.0,
        "rows_of_unknown_length": 2,
    }
    assert report.licenses() == {"unknown": 4}
    assert dropped(tmp_path) == [
        {"row": 1, "name": "list:2", "reason": "malformed", "detail": "list:2: no", "seconds": None},
        {"row": 3, "name": "list:4", "reason": "malformed", "detail": "list:4: no", "seconds": None},
    ]
    again = pack(rows, tmp_path, records_per_shard=3)
    assert (again.records, again.kept_shards) == (2, 2)


def test_bad_rows_change_what_a_shard_is_made_from(tone: Tone) -> None:
    prints = [
        source(clip(tone), row).layout.fingerprint(0, 2)
        for row in (BadRow("a", "x"), BadRow("a", "y"), BadRow("b", "x"), clip(tone))
    ]
    assert len(set(prints)) == 4


@pytest.mark.parametrize("bad", [BadRow("list:2", "list:2: no"), Row("list:2", {"text": 5}, ())])
def test_a_bad_row_may_end_the_packing(tone: Tone, tmp_path: Path, bad: Row | BadRow) -> None:
    rows = source(clip(tone), bad)
    with pytest.raises(
        DataError, match=r"^list:2: .*\. With bad_rows=drop such rows are left out, and counted$"
    ):
        pack(rows, tmp_path, bad_rows="fail")
    assert pack(rows, tmp_path).records == 1
    with pytest.raises(DataError, match=r"^list:2: "):  # also where the shard is there already
        pack(rows, tmp_path, bad_rows="fail")
    with pytest.raises(ValueError, match="bad_rows: 'skip' is not one of drop, fail"):
        pack(rows, tmp_path, bad_rows="skip")  # type: ignore[arg-type]


def test_what_is_no_malformed_row_ends_no_packing(tone: Tone, tmp_path: Path) -> None:
    rows = source(clip(tone), Row("gone", {"text": "x"}, (tmp_path / "gone.wav",)))
    assert pack(rows, tmp_path, bad_rows="fail").records == 1


def test_where_every_row_is_bad_the_first_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"none of its 2 rows can be used; .*dropped\.jsonl says why\. The first: no1"
    ):
        pack(source(BadRow("1", "no1"), BadRow("2", "no2")), tmp_path)


def test_the_command(tone: Tone, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(tone(0.2))
    list_ = tmp_path / "list.tsv"
    list_.write_text("path\ttext\na.wav\tx\na.wav\tx\ty\na.wav\tx\na.wav\ty\n")
    call = ["pack", str(list_), str(tmp_path / "out"), "--records-per-shard", "2", "--workers", "1"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0
    assert "3 of 4 rows" in done.stdout
    assert "dropped: 1 malformed" in done.stdout
    done = CliRunner().invoke(app, [*call, "--bad-rows", "fail"])
    assert isinstance(done.exception, DataError)
    assert "list.tsv:3: 3 fields, but the header has 2" in str(done.exception)
    (tmp_path / "t.tar").touch()
    done = CliRunner().invoke(app, ["pack", str(tmp_path / "t.tar"), "--bad-rows", "fail"])
    assert isinstance(done.exception, RequestError)
    assert "only indexed: leave out --bad-rows" in str(done.exception)


NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (NAN, None),
        (float("-inf"), None),
        (np.float32(1.5), 1.5),
        (np.float64(NAN), None),
        (np.int64(3), 3),
        (np.array([[1, 2]]), [[1, 2]]),
        (decimal.Decimal("1.10"), "1.10"),
        ("é".encode(), "é"),
        (b"\xff\0", "ff00"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), "2024-01-02T03:04:05+00:00"),
        (datetime.time(3, 4), "03:04:00"),
        (datetime.timedelta(seconds=90), "0:01:30"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ("a\ud800b", "a\\ud800b"),
        ({1: {NAN, 2}.__class__([2]), (1, 2): True}, {"1": [2], "[1, 2]": True}),
        ([(1, None), {"a": [NAN]}], [[1, None], {"a": [None]}]),
        (1 << 80, 1 << 80),
    ],
)
def test_metadata_as_json_holds_it(tone: Tone, tmp_path: Path, value: Any, expected: Any) -> None:
    assert json_value(value) == expected
    report = pack(source(clip(tone, meta={"a": value, "b": 1})), tmp_path)
    assert Shards("d", report.pattern).read(0).json["meta"] == {"a": expected, "b": 1}
    assert pack(source(clip(tone, meta={"a": value, "b": 1})), tmp_path).kept_shards == 1


def test_meta_that_cannot_be_packed_costs_its_row_only(tone: Tone, tmp_path: Path) -> None:
    deep: Any = 0
    for _ in range(100_000):
        deep = [deep]
    metas: list[Any] = [5, "x", ["a"], [{}], {"a": deep}, None]
    rows = [clip(tone, number, meta=meta) for number, meta in enumerate(metas)]
    assert pack(source(*rows), tmp_path).records == 1
    assert [drop["row"] for drop in dropped(tmp_path)] == [0, 1, 2, 3, 4]
    assert {drop["reason"] for drop in dropped(tmp_path)} == {"malformed"}
    while isinstance(deep, list):  # freed level by level, or the interpreter's stack overflows
        deep = deep.pop()


@pytest.mark.parametrize(
    "name",
    ["x" * 300, "x/" * 3000, "a\0b", "loop", "dangling", "folder", "fifo", "a.wav/b", "\ud800", "", "a.wav "],
)
@pytest.mark.parametrize("segment", [False, True])
def test_a_path_that_the_system_refuses_is_missing(
    tone: Tone, tmp_path: Path, name: str, segment: bool
) -> None:
    (tmp_path / "a.wav").write_bytes(tone(0.2))
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    bad: Clip = Segment(tmp_path / name, 0.0, 0.1) if segment else tmp_path / name
    rows = source(Row("bad", {"text": "x"}, (bad,)), clip(tone, 1))
    assert pack(rows, tmp_path / "out").records == 1
    (drop,) = dropped(tmp_path / "out")
    assert (drop["reason"], drop["seconds"]) == ("missing file", None)
    assert drop["detail"].startswith("bad: no ")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is refused to root")
def test_a_file_that_may_not_be_read_is_missing(tone: Tone, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(tone(0.2))
    (tmp_path / "a.wav").chmod(0)
    with pytest.raises(MissingClipError, match="Permission denied"):
        located(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("there", "wanted"),
    [("a.wav", "a.wav "), ("clips/1.wav", "clips\\1.wav"), ("a.WAV", "a.wav"), ("a.wav", "a.WAV")],
)
def test_names_what_lies_near(tmp_path: Path, there: str, wanted: str) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    with pytest.raises(MissingClipError) as caught:
        located(tmp_path / wanted)
    assert str(caught.value).endswith(f". There is '{tmp_path / there}': write it so")


def of(form: Any, name: str) -> str:
    return unicodedata.normalize(form, name)


@pytest.mark.parametrize("name", ["ガギグ.wav", "é/ガ.wav", "한국/é.wav", "ガ/a.wav"])
@pytest.mark.parametrize(("held", "wanted"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_name_is_found_in_another_normal_form(
    tone: Tone, tmp_path: Path, name: str, held: str, wanted: str
) -> None:
    file = tmp_path / of(held, name)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(tone(0.2))
    asked = tmp_path / of(wanted, name)
    assert str(asked) != str(file)
    assert as_on_disk(asked) == file
    row = Row("a", {"text": "x"}, (asked,))
    assert pack(source(row), tmp_path / "out").records == 1
    file.write_bytes(tone(0.3))  # what was made from the file is made again where that has changed
    again = pack(source(row), tmp_path / "out")
    assert again.kept_shards == 0
    assert again.seconds == pytest.approx(0.3)


def test_a_name_that_several_files_have_is_not_found(tmp_path: Path) -> None:
    mixed = [of("NFD", "ガ") + of("NFC", "ギ"), of("NFC", "ガ") + of("NFD", "ギ")]
    for name in mixed:
        (tmp_path / name).touch()
    with pytest.raises(MissingClipError, match="no such file"):
        located(tmp_path / of("NFC", "ガギ"))
    for name in mixed:
        assert as_on_disk(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize(
    ("segment", "reason"),
    [
        (Segment(Path(), 0.5, 1.0), "segment that is not in its file"),
        (Segment(Path(), 2.0, 1.0), "segment that is not in its file"),
        (Segment(Path(), 0.0, 0.5, 2), "segment that is not in its file"),
    ],
)
def test_a_segment_that_is_not_in_its_file(tone: Tone, tmp_path: Path, segment: Segment, reason: str) -> None:
    bad = Segment(tone(1.0), segment.start, segment.seconds, segment.channel)
    assert pack(source(Row("bad", {"text": "x"}, (bad,)), clip(tone, 1)), tmp_path).records == 1
    assert [drop["reason"] for drop in dropped(tmp_path)] == [reason]


@pytest.mark.parametrize(
    ("seconds", "slack", "packed"),
    [(1.0, 0.1, 1.0), (0.95, 0.1, 1.0), (1.09, 0.1, 1.0), (2.0, 1.0, 1.0), (0.5, 0.1, 0.5), (0.5, 0.0, 0.5)],
)
def test_a_length_that_was_told_roughly(
    tone: Tone, tmp_path: Path, seconds: float, slack: float, packed: float
) -> None:
    row = Row("a", {"text": "x"}, (Segment(tone(1.0), 0.0, seconds, None, slack),))
    assert pack(source(row), tmp_path).seconds == pytest.approx(packed)


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + ".csv", "a/" * 3000, "a\0b"])
def test_a_corpus_that_the_system_refuses_does_not_exist(name: str) -> None:
    with pytest.raises(RequestError, match="no such file or folder"):
        PackSource.open(name)


@pytest.mark.parametrize(("held", "wanted"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_corpus_is_found_in_another_normal_form(
    tone: Tone, tmp_path: Path, held: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / of(held, "ガ")
    folder.mkdir()
    (folder / "a.wav").write_bytes(tone(0.2))
    (folder / of(held, "é.csv")).write_text("path,text\na.wav,x\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    for asked in (str(tmp_path / of(wanted, "ガ/é.csv")), of(wanted, "~/ガ/é.csv")):
        assert PackSource.open(asked).path == str(folder / of(held, "é.csv"))
        assert len(PackSource.open(asked, "manifest")) == 1
    for key in ("a", "b"):
        (folder / f"{key}.tar").touch()
    (folder / of(held, "é.csv")).unlink()
    assert find_tars(str(tmp_path / of(wanted, "ガ"))) == [str(folder / "a.tar"), str(folder / "b.tar")]


def test_audio_is_opened_in_another_normal_form(tone: Tone, tmp_path: Path) -> None:
    (tmp_path / of("NFD", "ガ.wav")).write_bytes(tone(0.2))
    seconds, _, _ = probe(tmp_path / of("NFC", "ガ.wav"), "a")
    assert seconds == pytest.approx(0.2)
