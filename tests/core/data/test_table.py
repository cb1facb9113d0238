from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from kikimimi.data import table
from kikimimi.data.table import TableRow, read_table, table_kind

pytestmark = pytest.mark.fault(
    "Rows: tabs, line feeds, carriage returns, long fields", "the row is taken, or counted as malformed"
)


def read(kind: str, content: str | bytes, **options: Any) -> list[TableRow]:
    return list(
        read_table(io.BytesIO(content.encode() if isinstance(content, str) else content), kind, **options)
    )


def told(rows: list[TableRow]) -> list[tuple[int, object]]:
    return [(row.number, row.problem or row.values) for row in rows]


# Every character at which str.splitlines cuts, but for the line feed.
RARE = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize(
    ("kind", "content", "values"),
    [
        (".tsv", f"a.wav\tx{RARE}y\nb.wav\tz\r\n", [["a.wav", f"x{RARE}y"], ["b.wav", "z"]]),
        (".csv", f"a.wav,x{RARE}y\nb.wav,z\r\n", [["a.wav", f"x{RARE}y"], ["b.wav", "z"]]),
        (".csv", f'a.wav,"x{RARE}""y"\nb.wav,z', [["a.wav", f'x{RARE}"y'], ["b.wav", "z"]]),
        (".jsonl", f'"x{RARE[6:]}y"\n"z"\r\n', [f"x{RARE[6:]}y", "z"]),
    ],
)
def test_lines_end_at_line_feeds_only(kind: str, content: str, values: list[object]) -> None:
    assert told(read(kind, content)) == list(enumerate(values, 1))


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl"])
def test_long_fields_are_read(kind: str) -> None:
    text = "x" * 1_000_000
    content = f'"{text}"\n' if kind != ".tsv" else f"{text}\n"
    (row,) = read(kind, content)
    assert row.values == (text if kind == ".jsonl" else [text])


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("a,b", ["a", "b"]),
        ("a,", ["a", ""]),
        (",", ["", ""]),
        ('"a",b', ["a", "b"]),
        ('"a,""b""",""', ['a,"b"', ""]),
        ('5" disk,b', ['5" disk', "b"]),
        ('"1\n\n2",b', ["1\n\n2", "b"]),
        ('"1\r\n2",b', ["1\r\n2", "b"]),
        ('"""",b', ['"', "b"]),
    ],
)
def test_fields_of_csv(line: str, values: list[str]) -> None:
    first, second = read(".csv", f"{line}\nnext,row\n")
    assert first.values == values
    assert second.values == ["next", "row"]
    assert second.number == 2 + line.count("\n")
    assert second.offset == len(line) + 1


@pytest.mark.parametrize(
    ("kind", "bad", "problem"),
    [
        (".csv", b'a,"b" c', "',' expected after '\"', not ' '"),
        (".csv", b'a,"b', "',' expected after '\"', not 'u'"),
        (".csv", b"\xff,a", "not UTF-8 (byte 4 of a block is 0xff)"),
        (".tsv", b"a\t\xff", "not UTF-8 (byte 6 of a block is 0xff)"),
        (".jsonl", b"{", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        (".jsonl", b"\xff", "not UTF-8 (byte 4 of a block is 0xff)"),
        (".jsonl", b"[" * 100_000, "not JSON: nested too deeply"),
        (".jsonl", b"9" * 5000, "not JSON: Exceeds the limit (4300 digits)"),
    ],
)
def test_a_bad_row_ends_no_table(kind: str, bad: bytes, problem: str) -> None:
    good = {".csv": b"1,2", ".tsv": b"1\t2", ".jsonl": b"[1]"}[kind]
    closing = b'"unquoted" x,y' if kind == ".csv" else good
    rows = read(kind, b"\n".join([good, bad, good, closing, good]))
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    assert rows[1].values is None
    assert problem in str(rows[1].problem)
    values = [1] if kind == ".jsonl" else ["1", "2"]
    assert [rows[number].values for number in (0, 2, 4)] == [values] * 3


def test_utf_16_is_named() -> None:
    first, *_ = read(".csv", "path,text\n".encode("utf-16"))
    assert first.problem == "not UTF-8 (byte 0 of a block is 0xff): it is UTF-16; save it as UTF-8"


def test_a_quotation_mark_that_is_never_closed_costs_one_row() -> None:
    rows = told(read(".csv", 'a,"b\nc,d\n\ne,f\n'))
    assert rows == [
        (1, "unexpected end of data: a quotation mark is not closed"),
        (2, ["c", "d"]),
        (4, ["e", "f"]),
    ]


def test_a_row_of_tsv_that_line_feeds_broke_is_one_row() -> None:
    rows = told(read(".tsv", "a\tb\tc\n1\t2\n\n3\t4\n5\t6\t7\n8\n9\t10\t11\n"))
    assert rows == [
        (1, ["a", "b", "c"]),
        (2, "broken into 3 lines by line feeds in a field; a .tsv cannot hold them"),
        (5, ["5", "6", "7"]),
        (6, ["8"]),
        (7, ["9", "10", "11"]),
    ]


def pieces(*lines: str, kind: str = ".tsv", texts: str = "") -> list[object]:
    """Read a table with the columns a, b, c, and tell the first fields and the lines of problems."""
    mark = "\t" if kind == ".tsv" else ","
    content = "\n".join(line.replace(" ", mark) for line in ("a b c", *lines, "y y y"))
    rows = read(kind, content, texts=tuple(texts))[1:]
    for row in rows:  # reading may begin at each
        rest = content.encode()[row.offset :]
        options = {"offset": row.offset, "number": row.number - 1, "columns": ("a", "b", "c")}
        assert read(kind, rest, texts=tuple(texts), **options)[0] == row
    return [str(row.number) if row.problem else "".join(row.values) for row in rows]


@pytest.mark.parametrize("kind", [".tsv", ".csv"])
@pytest.mark.parametrize(
    ("texts", "lines", "told"),
    [
        ("b", ["1 2 3", "4"], ["123", "4"]),  # no text can have lost a part
        ("c", ["1 2 3", "4"], ["2"]),
        ("c", ["1 2 3", "", "4", "5"], ["2"]),
        ("c", ["x x x", "1 2 3", "4"], ["xxx", "3"]),
        ("c", ["4"], ["4"]),  # nor the names of the columns
        ("a", ["1", "2 3 4"], ["2"]),
        ("a", ["x x x", "1", "", "2", "3 4 5"], ["xxx", "3"]),
        ("ac", ["1 2 3", "4", "5 6 7"], ["2"]),
        ("c", ["1 2", "3 4"], ["2"]),
    ],
)
def test_a_row_whose_text_may_have_lost_a_part_is_no_row(
    kind: str, texts: str, lines: list[str], told: list[str]
) -> None:
    assert pieces(*lines, kind=kind, texts=texts) == [*told, "yyy"]


def test_what_is_broken_is_told() -> None:
    rows = read(".tsv", "path\ttext\na.wav\tone\ntwo\nb.wav\tx\n", texts=("text",))
    assert told(rows[1:]) == [
        (
            2,
            "of the lines 2 to 3 one has too few fields, or line feeds in a text have broken them; a .tsv "
            "cannot hold them",
        ),
        (4, ["b.wav", "x"]),
    ]
    # Fewer fields than a text can leave behind: a row of its own.
    assert told(read(".tsv", "a\tb\tc\n1\t2\t3\n4\t5\n6\t7\t8\n", texts=("c",)))[2] == (3, ["4", "5"])


def test_a_line_without_an_end_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_ROW", 100)
    rows = told(read(".tsv", f"a\tb\n{'x' * 350}\nc\td\n"))
    assert rows == [(1, ["a", "b"]), (2, "longer than 100 bytes"), (3, ["c", "d"])]
    rows = told(read(".csv", 'a,"b\n' + "x,y\n" * 99))
    assert rows[0] == (1, "unexpected end of data: a quotation mark is not closed")
    assert len(rows) == 100


def test_goes_on_anywhere() -> None:
    content = '\ufeffa,b\n"1\n2",3\n"bad" x,y\n4,5\n'.encode()
    whole = list(read_table(io.BytesIO(content), ".csv"))
    assert [row.number for row in whole] == [1, 2, 4, 5]
    for first, row in enumerate(whole):
        rest = io.BytesIO(content[row.offset :])
        assert list(read_table(rest, ".csv", offset=row.offset, number=row.number - 1)) == whole[first:]


def test_kinds() -> None:
    assert [table_kind(Path(name)) for name in ("a.CSV", "a.tsv", "a.JSONL", "a.json", "a")] == [
        ".csv",
        ".tsv",
        ".jsonl",
        None,
        None,
    ]
