"""Tables on disk: CSV, TSV or JSON Lines, row by row, without holding them in memory."""

from __future__ import annotations

import csv
import json
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from kikimimi import DataError, Layout, RequestError, Row, listing

TABLE_SUFFIXES = (".csv", ".jsonl", ".tsv")
"""File name endings that `Table` reads."""

Cells = dict[str, Any]
_Check = Callable[[str, Cells], object]
_Keep = Callable[[Cells], bool]


class Table:
    """The rows of a table by number. It is read through once; then 16 bytes are held for each row.

    ``.csv`` has a header line and quotation marks as spreadsheets write them; ``.tsv`` has no quoting: a
    quotation mark there is a letter; ``.jsonl`` holds a mapping in each line. UTF-8. Blank lines are passed
    over.

    Args:
        path: The file.
        columns: Names of the columns where a ``.csv`` or ``.tsv`` has no header line.
        needs: Columns that a row has to have.
        what: What a table with these columns is, for messages.
        check: Called with the place (``table.csv:7``) and the fields of every row; raises where one is wrong.
        keep: Tells which rows count; None takes all.

    Raises:
        RequestError: It does not exist, is of no known kind, lacks a column, or holds no row.
        DataError: It is not UTF-8, or a row is malformed.
    """

    def __init__(
        self,
        path: Path,
        *,
        columns: Sequence[str] = (),
        needs: Sequence[str] = (),
        what: str = "",
        check: _Check | None = None,
        keep: _Keep | None = None,
    ) -> None:
        if not path.is_file():
            raise RequestError(f"{path}: no such file")
        if path.suffix not in TABLE_SUFFIXES:
            raise RequestError(f"{path}: a table is one of {listing(TABLE_SUFFIXES)}, not '{path.suffix}'")
        self.path, self.keep = path, keep
        self.is_json = path.suffix == ".jsonl"
        self._offsets, self._numbers = array("q"), array("q")
        with path.open("rb") as file:
            lines = _Lines(file, path)
            self.columns = tuple(columns) if columns or self.is_json else self._header(lines)
            for offset, number, fields in self._read(lines):
                self._offsets.append(offset)
                self._numbers.append(number)
                if missing := [column for column in needs if column not in fields]:
                    raise RequestError(f"{path}:{number}: no column '{missing[0]}': not {what}")
                if check is not None:
                    check(f"{path}:{number}", fields)
        if not len(self):
            raise RequestError(f"{path}: holds no rows")

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._offsets)

    def rows(self, begin: int, end: int) -> Iterator[tuple[str, Cells]]:
        """Yield the place (``table.csv:7``) and the fields of the rows from `begin` to before `end`."""
        if begin >= min(end, len(self)):
            return
        with self.path.open("rb") as file:
            file.seek(self._offsets[begin])
            lines = _Lines(file, self.path, self._offsets[begin], self._numbers[begin] - 1)
            for row, (_, number, fields) in enumerate(self._read(lines), begin):
                yield f"{self.path}:{number}", fields
                if row + 1 == end:
                    return

    def _read(self, lines: _Lines) -> Iterator[tuple[int, int, Cells]]:
        rows = self._mappings(lines) if self.is_json else self._records(lines)
        return (row for row in rows if self.keep is None or self.keep(row[2]))

    def _header(self, lines: _Lines) -> tuple[str, ...]:
        header = next(self._split(lines), (0, 0, []))[2]
        if repeated := {name for name in header if header.count(name) > 1}:
            raise DataError(f"{self.path}:1: column {listing(repeated)} is there twice")
        return tuple(header)

    def _records(self, lines: _Lines) -> Iterator[tuple[int, int, Cells]]:
        for offset, number, values in self._split(lines):
            if len(values) != len(self.columns):
                whose = f"the header has {len(self.columns)}" if number > 1 else f"{len(self.columns)} belong"
                raise DataError(f"{self.path}:{number}: {len(values)} fields, but {whose}")
            yield offset, number, dict(zip(self.columns, values, strict=True))

    def _split(self, lines: _Lines) -> Iterator[tuple[int, int, list[str]]]:
        reader = (
            csv.reader(lines, strict=True)
            if self.path.suffix == ".csv"
            else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        )
        while True:
            offset, number = lines.offset, lines.number + 1
            try:
                values = next(reader, None)
            except csv.Error as error:
                raise DataError(f"{self.path}:{lines.number}: {error}") from error
            if values is None:
                return
            if values:
                yield offset, number, values

    def _mappings(self, lines: _Lines) -> Iterator[tuple[int, int, Cells]]:
        offset = lines.offset
        for line in lines:
            if line.strip():
                where = f"{self.path}:{lines.number}"
                try:
                    fields = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{where}: not JSON: {error}") from error
                if not isinstance(fields, dict):
                    raise DataError(f"{where}: expected a mapping, not {type(fields).__name__}")
                yield offset, lines.number, fields
            offset = lines.offset


class TableLayout(Layout):
    """A layout whose rows are those of a table: a subclass sets `table` and makes a row of the fields."""

    table: Table

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, begin: int, end: int) -> Iterator[Row]:
        """Yield the rows from `begin` to before `end`, in the order of the table."""
        for where, fields in self.table.rows(begin, end):
            yield self.row(where, fields)

    @abstractmethod
    def row(self, where: str, fields: Cells) -> Row:
        """Make a row of the fields that stand at a place (``table.csv:7``)."""


class _Lines:
    """The lines of a file as text; `offset` [bytes] is where the next begins, `number` counts them."""

    def __init__(self, file: IO[bytes], path: Path, offset: int = 0, number: int = 0) -> None:
        self.file, self.path, self.offset, self.number = file, path, offset, number

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.file)
        first = self.offset == 0
        self.offset += len(line)
        self.number += 1
        try:
            # Spreadsheets put a byte order mark in front.
            return line.decode("utf-8-sig" if first else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}:{self.number}: not UTF-8: {error}") from error
