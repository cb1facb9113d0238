from __future__ import annotations

from pathlib import Path

import pytest

from kikimimi.contracts.layout import BadRow
from kikimimi.errors import DataError, RequestError
from kikimimi_layouts.table import Cells, Table


def good(table: Table) -> list[tuple[str, Cells]]:
    return [row for row in table.rows(0, len(table)) if not isinstance(row, BadRow)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", '\ufeffpath,text\r\na.wav,"こん,\nにちは"\r\n\r\nb.wav,\r\n'),
        ("m.tsv", "path\ttext\na.wav\tこん,にちは\n\nb.wav\t"),
        ("m.jsonl", '{"path": "a.wav", "text": "こん,にちは"}\n\n{"path": "b.wav", "text": ""}'),
    ],
)
def test_rows_by_number(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    table = Table(tmp_path / name)
    rows = [(where.rpartition("/")[2], fields) for where, fields in good(table)]
    last = 5 if name == "m.csv" else 4 if name == "m.tsv" else 3
    assert [fields["path"] for _, fields in rows] == ["a.wav", "b.wav"]
    assert rows[0][1]["text"].replace("\n", "") == "こん,にちは"
    assert rows[1] == (f"{name}:{last}", {"path": "b.wav", "text": ""})
    assert len(table) == 2
    # Any range reads the same rows as a whole pass, places included.
    whole = list(table.rows(0, 2))
    for begin in range(4):
        for end in range(4):
            assert list(table.rows(begin, end)) == whole[begin:end]


def test_a_million_rows_are_not_held(tmp_path: Path) -> None:
    path = tmp_path / "m.tsv"
    path.write_text("path\ttext\n" + "".join(f"{i}.wav\t{'x' * 100}\n" for i in range(2000)))
    table = Table(path)
    assert sum(a.itemsize * len(a) for a in (table._offsets, table._numbers)) == 2000 * 16


def test_quotation_marks_in_tsv_are_letters(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text('path\ttext\na.wav\t"hello\n', encoding="utf-8")
    assert good(Table(tmp_path / "m.tsv"))[0][1]["text"] == '"hello'


def test_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text("a.wav\tx\n", encoding="utf-8")
    assert [f for _, f in good(Table(tmp_path / "m.tsv", columns=("p", "t")))] == [{"p": "a.wav", "t": "x"}]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("m.csv", b"path,text\n", RequestError, r"m\.csv: holds no rows"),
        ("m.csv", b"", RequestError, r"m\.csv: holds no rows"),
        ("m.xlsx", b"", RequestError, r"a table is one of \.csv, \.jsonl, \.tsv, not '\.xlsx'"),
        ("m.csv", b"path,text\na.wav,x,y\n", DataError, r"m\.csv:2: 3 fields, but the header has 2"),
        ("m.csv", b"path,text,text\na.wav,x,y\n", DataError, r"m\.csv:1: column text is there twice"),
        ("m.csv", b'path,text\na.wav,"x\n', DataError, r"m\.csv:2: unexpected end of data"),
        ("m.csv", b"path,text\na.wav,\xff\n", DataError, r"m\.csv:2: not UTF-8"),
        ("m.jsonl", b"{\n", DataError, r"m\.jsonl:1: not JSON"),
        ("m.jsonl", b"\n[]\n", DataError, r"m\.jsonl:2: expected a mapping, not list"),
    ],
)
def test_refuses(tmp_path: Path, name: str, content: bytes, error: type[Exception], message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        Table(tmp_path / name)


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"gone\.csv: no such file"):
        Table(tmp_path / "gone.csv")


def test_too_few_fields_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text("a.wav\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"m\.tsv:1: 1 fields, but 2 belong"):
        Table(tmp_path / "m.tsv", columns=("p", "t"))


def test_bad_rows_are_counted_with_the_others(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b'path,text\na,1\nb\nc,"3\nd,4\ne,\xff\nf,6\n')

    def check(where: str, fields: Cells) -> None:
        if fields["path"] == "d":
            raise DataError(f"{where}: not d")

    table = Table(path, check=check)
    assert len(table) == 6
    rows = list(table.rows(0, 6))
    assert [row[1]["path"] if not isinstance(row, BadRow) else None for row in rows] == [
        *("a", None, None, "d", None, "f")
    ]
    reasons = [row.reason.removeprefix(f"{path}:") for row in rows if isinstance(row, BadRow)]
    assert reasons[0] == "3: 1 fields, but the header has 2"
    assert reasons[1] == "4: unexpected end of data: a quotation mark is not closed"
    assert reasons[2].startswith("6: not UTF-8")
    for begin in range(7):
        assert list(table.rows(begin, 6)) == rows[begin:]


@pytest.mark.parametrize("text", ["x", "y"])
def test_a_file_of_old_macs(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.tsv").write_text(f"path\ttext\ra.wav\t{text}\ra.wav\ty\ra.wav\ty\r")
    with pytest.raises(DataError, match="its lines end in carriage returns; save it with line feeds"):
        Table(tmp_path / "m.tsv")


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        Table(tmp_path / ("x" * 300 + ".csv"))
