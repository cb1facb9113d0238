"""Tables as text: the rows of CSV, TSV and JSON Lines, one by one. A row that is wrong ends no table.

Lines end at line feeds, with or without a carriage return in front, and nowhere else: a lone carriage return,
or one of the other characters at which `str.splitlines` cuts, is part of a text. CSV is as RFC 4180 has it;
TSV as text/tab-separated-values has it: without quoting.
"""

import json
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
"""File name endings of tables, in small letters or capitals."""

MAX_ROW = 1 << 24
"""Longest row of a table [bytes]: what is longer is passed over, not read."""

_INSIDE = re.compile(r'[^"]*(?:""[^"]*)*')  # of quotation marks
_MAX_JOINED = 100  # lines into which line feeds may have broken a row of a TSV


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
    file: IO[bytes], kind: str, *, offset: int = 0, number: int = 0, width: int | None = None
) -> Iterator[TableRow]:
    """Read the rows of a UTF-8 table in order. Blank lines are passed over, and a byte order mark.

    Args:
        file: The table, at the beginning of a row. Of a CSV or a TSV, the header is the first row.
        kind: The one of `TABLE_SUFFIXES` that it is.
        offset: Where in the table that is [bytes].
        number: How many lines stand before it.
        width: Number of columns; None takes that of the first row. Rows of another width are given as they
            are, but for those of a TSV that line feeds have broken: they are one row, with a problem.
    """
    lines = _Lines(file, offset, number)
    if kind == ".csv":
        yield from _csv(lines)
    elif kind == ".tsv":
        yield from _tsv(lines, width)
    else:
        yield from map(_json, lines)


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
            return _Line(offset, self._number, "", "", problem)
        body = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
        return _Line(offset, self._number, body, text[len(body) :])

    def put_back(self, lines: list[_Line]) -> None:
        self._ahead.extendleft(reversed(lines))


def _csv(lines: _Lines) -> Iterator[TableRow]:
    for line in lines:
        problem, values, ahead = line.problem, None, list[_Line]()
        try:
            values = None if problem else _fields(line, lines, ahead)
        except ValueError as error:
            problem = str(error)
            lines.put_back(
                ahead
            )  # where a quotation mark is never closed, the next row begins on the next line
        yield TableRow(line.offset, line.number, values, problem)


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


def _tsv(lines: _Lines, width: int | None) -> Iterator[TableRow]:
    for line in lines:
        if line.problem:
            yield TableRow(line.offset, line.number, None, line.problem)
            continue
        values = line.text.split("\t")
        width = width or len(values)
        if len(values) < width and (joined := _joined(len(values), width, lines)):
            problem = f"broken into {joined} lines by line feeds in a field; a .tsv cannot hold them"
            yield TableRow(line.offset, line.number, None, problem)
        else:
            yield TableRow(line.offset, line.number, values)


def _joined(fields: int, width: int, lines: _Lines) -> int:
    """Return how many lines make one row of a TSV that begins with too few fields, or 0 where none do."""
    ahead: list[_Line] = []
    while len(ahead) < _MAX_JOINED and (line := lines.read()) is not None:
        ahead.append(line)
        tabs = line.text.count("\t")
        if line.problem or tabs + 1 >= width:
            break
        fields += tabs
        if fields == width:
            return 1 + len(ahead)
    lines.put_back(ahead)
    return 0


def _json(line: _Line) -> TableRow:
    problem, value = line.problem, None
    if problem is None:
        try:
            value = json.loads(line.text)
        except json.JSONDecodeError as error:
            problem = f"not JSON: {error.msg} at column {error.colno}"
        except RecursionError:
            problem = "not JSON: nested too deeply"
        except ValueError as error:
            problem = f"not JSON: {error}"
    return TableRow(line.offset, line.number, value, problem)
