from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from kikimimi.errors import DataError, RequestError
from kikimimi_layouts import gzip_file, json_files
from kikimimi_layouts.json_files import first_record, json_kind
from kikimimi_layouts.table import Table

pytestmark = pytest.mark.fault("Rows: JSON lists and gzip", "read in bounded memory; damage is named")

RECORDS = [
    {"id": number, "text": "字" * (number % 7), "more": {"x": ["]", "}", '"']}} for number in range(40)
]


def all_of(table: Table) -> list[Any]:
    return [fields for found in table.rows(0, len(table)) if isinstance(found, tuple) for fields in found[1:]]


def as_list(**options: Any) -> bytes:
    return json.dumps(RECORDS, **options).encode()


LINES = "\n".join(map(json.dumps, RECORDS)).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.json", LINES),
        ("a.JSONL.GZ", gzip.compress(LINES)),
        ("a.jsonl.gz", gzip.compress(LINES[:700]) + gzip.compress(LINES[700:]) + b"\0" * 9),
        ("a.json", as_list()),
        ("a.json", as_list(indent=2, ensure_ascii=False)),
        ("a.json", b"\xef\xbb\xbf \r\n" + as_list(separators=(",", ":")) + b"\n\n"),
        ("a.json.gz", gzip.compress(as_list())),
    ],
)
@pytest.mark.parametrize("chunk", [1 << 20, 7])
def test_records_by_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, chunk: int
) -> None:
    monkeypatch.setattr(json_files, "_CHUNK", chunk)
    monkeypatch.setattr(gzip_file, "_READ", max(chunk, 16))
    monkeypatch.setattr(gzip_file, "_BETWEEN", 500)
    (tmp_path / name).write_bytes(content)
    assert first_record(tmp_path / name) == RECORDS[0]
    table = Table(tmp_path / name)
    assert len(table) == 40
    for begin, end in ((0, 40), (17, 23), (39, 40), (3, 3), (12, 99), (5, 6)):
        found = [row for row in table.rows(begin, end) if isinstance(row, tuple)]
        assert [fields for _, fields in found] == RECORDS[begin:end]
    where, _ = next(row for row in table.rows(4, 5) if isinstance(row, tuple))
    assert where == f"{tmp_path / name}:5"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a": 1}, {"a": 2', r"a\.json: item 2: not JSON: .*one malformed line stops no other"),
        (b'[{"a": 1}, ', r"a\.json: item 2: breaks off"),
        (b'[{"a": 1} {"a": 2}]', r"item 1: expected a comma or the end of the list"),
        (b'[{"a": 1}] x', r"more follows after the end"),
        (b'[{"a": "\xff"}]', r"a\.json: not UTF-8"),
        (b"[" + b"[" * 100_000, r"item 1: nested too deeply"),
        (b'["' + b"a" * 2000 + b'"]', r"item 1: longer than 1,000 characters"),
    ],
)
def test_malformed_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.setattr(json_files, "MAX_ITEM", 1000)
    monkeypatch.setattr(json_files, "_CHUNK", 100)
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        Table(tmp_path / "a.json")


def test_an_empty_list_holds_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[ ]\n")
    with pytest.raises(RequestError, match="holds no rows"):
        Table(tmp_path / "a.json")


def test_items_that_are_no_mappings_end_no_list(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[1, {"a": 2}, null]')
    table = Table(tmp_path / "a.json")
    assert len(table) == 3
    assert all_of(table) == [{"a": 2}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(LINES)[:-20], r"a\.jsonl\.gz: breaks off"),
        (gzip.compress(LINES)[:40] + b"\xff" * 40 + gzip.compress(LINES)[80:], r"a\.jsonl\.gz: damaged"),
        (LINES, r"a\.jsonl\.gz: damaged: .*incorrect header"),
        (b"", r"breaks off"),
    ],
)
def test_damaged_gzip(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    assert first_record(tmp_path / "a.jsonl.gz") in (None, RECORDS[0])
    with pytest.raises(DataError, match=message):
        Table(tmp_path / "a.jsonl.gz")


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_file, "_SMALL", 1 << 20)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * (1 << 20)))
    with pytest.raises(DataError, match=r"unpacks to more than 500 times its size"):
        Table(tmp_path / "a.jsonl.gz")


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("{}")
    assert json_kind(tmp_path / "a.txt") is None
    assert json_kind(tmp_path / "gone.json") is None
    (tmp_path / "a.json").write_text("nothing")
    assert first_record(tmp_path / "a.json") is None
