"""Tables as text: the rows of CSV, TSV and JSON Lines, one by one. A row that is wrong ends no table.

Lines end at line feeds, with or without a carriage return in front, and nowhere else: a lone carriage return,
or one of the other characters at which `str.splitlines` cuts, is part of a text. CSV is as RFC 4180 has it;
TSV as text/tab-separated-values has it: without quoting.
"""

import codecs
import json
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from kikimimi.files.reading import parse_any_json

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
"""File name endings of tables, in small letters or capitals."""

MAX_ROW = 1 << 24
"""Longest row of a table [bytes]: what is longer is passed over, not read."""

_INSIDE = re.compile(r'[^"]*(?:""[^"]*)*')  # of quotation marks
_MAX_JOINED = 100  # rows into which line feeds may have broken one


class TableRow(NamedTuple):
    """A row of a table.

    Attributes:
        offset: Where it begins [bytes].
        number: Number of its first line, from 1.
        values: Texts of a CSV or a TSV, or the JSON value of a line; None where there is a problem.
        problem: Why it cannot be read, or None.
    """

    offset: int
    number: int
    values: Any
    problem: str | None = None


def table_kind(path: Path) -> str | None:
    """Return the one of `TABLE_SUFFIXES` that a file's name ends in, or None."""
    suffix = path.suffix.lower()
    return suffix if suffix in TABLE_SUFFIXES else None


def read_table(
    file: IO[bytes],
    kind: str,
    *,
    offset: int = 0,
    number: int = 0,
    columns: Sequence[str] | None = None,
    texts: Collection[str] = (),
) -> Iterator[TableRow]:
    """Read the rows of a UTF-8 table in order. Blank lines are passed over, and a byte order mark.

    Rows of a CSV or a TSV that have more or fewer fields than there are columns are given as they are. Those
    that line feeds have broken are one row, with a problem, and so are those of which it cannot be told:
    a row whose last column is a text, when one with fewer fields follows; one with fewer fields, when a row
    follows whose first column is a text.

    Args:
        file: The table, at the beginning of a row.
        kind: The one of `TABLE_SUFFIXES` that it is.
        offset: Where in the table that is [bytes].
        number: How many lines stand before it.
        columns: Names of the columns of a CSV or a TSV; None takes the first row, which is given, too.
        texts: Names of those that hold texts, of which no part may be lost.
    """
    lines = _Lines(file, offset, number)
    if kind == ".jsonl":
        yield from map(_json, lines)
    else:
        yield from _delimited(lines, kind, columns, texts)


class _Line(NamedTuple):
    offset: int
    number: int
    text: str
    end: str
    problem: str | None = None


class _Lines:
    """The lines of a file that are not blank; what was read ahead may be put back."""

    def __init__(self, file: IO[bytes], offset: int, number: int) -> None:
        self._file, self._offset, self._number = file, offset, number
        self._ahead: deque[_Line] = deque()

    def __iter__(self) -> Iterator[_Line]:
        while (line := self.read()) is not None:
            if line.problem or line.text.strip(" \r"):
                yield line

    def read(self) -> _Line | None:
        """Read a line, blank or not, or return None at the end."""
        if self._ahead:
            return self._ahead.popleft()
        begin, offset = self._file.readline(MAX_ROW + 1), self._offset
        if not begin:
            return None
        self._number += 1
        self._offset += len(begin)
        if len(begin) > MAX_ROW and not begin.endswith(b"\n"):
            while (rest := self._file.readline(MAX_ROW)) and not rest.endswith(b"\n"):
                self._offset += len(rest)
            self._offset += len(rest)
            return _Line(offset, self._number, "", "", f"longer than {MAX_ROW:,} bytes")
        try:
            # Spreadsheets put a byte order mark in front.
            text = begin.decode("utf-8-sig" if offset == 0 else "utf-8")
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 (byte {offset + error.start} of a block is 0x{begin[error.start]:02x})"
            if offset == 0 and begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                problem += ": it is UTF-16; save it as UTF-8"
            return _Line(offset, self._number, "", "", problem)
        body = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
        return _Line(offset, self._number, body, text[len(body) :])

    def put_back(self, lines: list[_Line]) -> None:
        self._ahead.extendleft(reversed(lines))


_Found = tuple[TableRow, list[_Line]]  # a row, and the lines that it was read from


def _delimited(
    lines: _Lines, kind: str, columns: Sequence[str] | None, texts: Collection[str]
) -> Iterator[TableRow]:
    read = _csv if kind == ".csv" else _tsv
    if columns is None:
        if (header := read(lines)) is None:
            return
        yield header[0]
        named: Sequence[str] = header[0].values or ()
        columns = named
    narrower = len(columns) - 1
    pieces = _Pieces(lines, read, columns, texts, min(1, narrower) if kind == ".tsv" else narrower)
    remedy = "a .tsv cannot hold them" if kind == ".tsv" else "a .csv holds them in quotation marks"
    while (found := read(lines)) is not None:
        row, _ = found
        problem = row.problem
        if problem is None and (last := pieces.of_a_field(row)):
            problem = f"broken into {last - row.number + 1} lines by line feeds in a field; {remedy}"
        elif problem is None and (last := pieces.of_a_text(row)):
            problem = (
                f"of the lines {row.number} to {last} one has too few fields, or line feeds in a text have "
                f"broken them; {remedy}"
            )
        yield row if problem is None else TableRow(row.offset, row.number, None, problem)


class _Pieces:
    """Finds the rows that line feeds have broken, by the number of their fields.

    Args:
        lines: The table's lines; those that are none of a broken row are put back.
        read: Reads a row.
        columns: Names of the columns.
        texts: Names of those that hold texts.
        most: Most fields of what a line feed breaks off from the end, or the beginning, of a row.
    """

    def __init__(
        self,
        lines: _Lines,
        read: Callable[[_Lines], _Found | None],
        columns: Sequence[str],
        texts: Collection[str],
        most: int,
    ) -> None:
        self._lines, self._read, self._width, self._most = lines, read, len(columns), most
        self._first, self._last = (any(name in texts for name in end) for end in (columns[:1], columns[-1:]))

    def of_a_field(self, row: TableRow) -> int:
        """Return the last line of the rows that are as wide as one together, or 0."""
        fields, ahead = len(row.values), list[_Line]()
        while fields < self._width and len(ahead) < _MAX_JOINED and (found := self._read(self._lines)):
            other, taken = found
            ahead += taken
            if other.problem is not None or len(other.values) >= self._width:
                break
            fields += len(other.values) - 1
            if fields == self._width:
                return ahead[-1].number
        self._lines.put_back(ahead)
        return 0

    def of_a_text(self, row: TableRow) -> int:
        """Return the last line of the rows of which one may be cut at its end, or its beginning, or 0."""
        is_whole = len(row.values) == self._width
        if not (self._last if is_whole else self._first and self._is_piece(row)):
            return 0
        ahead: list[_Line] = []
        while len(ahead) < _MAX_JOINED and (found := self._read(self._lines)):
            other, taken = found
            if self._is_piece(other):
                ahead += taken
                continue
            may_be_cut = self._first and (ahead or not is_whole)
            if may_be_cut and other.problem is None and len(other.values) == self._width:
                return taken[-1].number
            self._lines.put_back(taken)
            break
        if is_whole:
            return ahead[-1].number if ahead else 0
        self._lines.put_back(ahead)
        return 0

    def _is_piece(self, row: TableRow) -> bool:
        return row.problem is None and len(row.values) <= self._most


def _csv(lines: _Lines) -> _Found | None:
    for line in lines:
        problem, values, ahead = line.problem, None, list[_Line]()
        try:
            values = None if problem else _fields(line, lines, ahead)
        except ValueError as error:
            problem = str(error)
            # Where a quotation mark is never closed, the next row begins on the next line.
            lines.put_back(ahead)
            ahead = []
        return TableRow(line.offset, line.number, values, problem), [line, *ahead]
    return None


def _fields(line: _Line, lines: _Lines, ahead: list[_Line]) -> list[str]:
    """Return the fields of a row of a CSV that begins with a line; other lines of it are put in `ahead`."""
    text, at = line.text, 0
    if '"' not in text:
        return text.split(",")
    fields: list[str] = []
    size = len(text)
    while True:
        if text.startswith('"', at):
            pieces, at = [], at + 1
            while True:
                inside = _INSIDE.match(text, at)
                assert inside is not None  # it matches nothing, too
                pieces.append(inside[0])
                if (at := inside.end()) < len(text):
                    break
                pieces.append(line.end)
                if (following := lines.read()) is None or following.problem or size > MAX_ROW:
                    ahead.extend([] if following is None else [following])
                    raise ValueError("unexpected end of data: a quotation mark is not closed")
                line = following
                ahead.append(line)
                text, at, size = line.text, 0, size + len(line.text)
            at += 1
            fields.append("".join(pieces).replace('""', '"'))
        else:
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            fields.append(text[at:end])
            at = end
        if at == len(text):
            return fields
        if text[at] != ",":
            raise ValueError(f"""',' expected after '"', not {text[at]!r}""")
        at += 1


def _tsv(lines: _Lines) -> _Found | None:
    for line in lines:
        values = None if line.problem else line.text.split("\t")
        return TableRow(line.offset, line.number, values, line.problem), [line]
    return None


def _json(line: _Line) -> TableRow:
    problem, value = line.problem, None
    if problem is None:
        try:
            value = parse_any_json(line.text)
        except json.JSONDecodeError as error:
            problem = f"not JSON: {error.msg} at column {error.colno}"
        except ValueError as error:
            problem = f"not JSON: {error}"
    return TableRow(line.offset, line.number, value, problem)
