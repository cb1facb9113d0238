"""Tables on disk: CSV, TSV or JSON Lines, row by row, without holding them in memory."""

from __future__ import annotations

import os
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from kikimimi import (
    TABLE_SUFFIXES,
    BadRow,
    DataError,
    KikimimiError,
    Layout,
    RequestError,
    Row,
    TableRow,
    listing,
    read_table,
    table_kind,
)
from kikimimi_layouts.json_files import json_kind, opener, read_list

Cells = dict[str, Any]
_Check = Callable[[str, Cells], object]
_Keep = Callable[[Cells], bool]


class Table:
    """The rows of a table by number. It is read through once; then 16 bytes are held for each row.

    ``.csv`` has a header line and quotation marks as spreadsheets write them; ``.tsv`` has no quoting: a
    quotation mark there is a letter; ``.jsonl`` holds a mapping in each line; ``.json`` does, too, or is a
    list of mappings; JSON may be packed (``.jsonl.gz``). UTF-8. Blank lines are passed over. A row that
    cannot be read is a `BadRow`, unless all are.

    Args:
        path: The file.
        columns: Names of the columns where a ``.csv`` or ``.tsv`` has no header line.
        needs: Columns that a row has to have.
        texts: Columns with texts, of which line feeds may lose no part.
        what: What a table with these columns is, for messages.
        check: Called with the place (``table.csv:7``) and the fields of every row; raises where one is wrong.
        keep: Tells which rows count; None takes all.

    Raises:
        RequestError: It does not exist, is of no known kind, holds no row, or lacks a column in all of them.
        DataError: Its header or every row is malformed.
    """

    def __init__(
        self,
        path: Path,
        *,
        columns: Sequence[str] = (),
        needs: Sequence[str] = (),
        texts: Sequence[str] = (),
        what: str = "",
        check: _Check | None = None,
        keep: _Keep | None = None,
    ) -> None:
        if not os.path.isfile(path):
            raise RequestError(f"{path}: no such file")
        kind = json_kind(path) or table_kind(path)
        if kind is None:
            raise RequestError(f"{path}: a table is one of {listing(TABLE_SUFFIXES)}, not '{path.suffix}'")
        self.path, self.kind, self.needs, self.what, self.keep = path, kind, needs, what, keep
        self.is_json, self._open = kind in (".json", ".jsonl"), opener(path)
        self.columns, self.texts = tuple(columns), texts
        self._offsets, self._numbers = array("q"), array("q")
        first: KikimimiError | None = None  # what is wrong, of the whole table rather than of a row
        good = 0
        try:
            with self._open() as file:
                rows = self._read(file)
                if not self.is_json and not columns:
                    self.columns = self._header(next(rows, None))
                for row in rows:
                    try:
                        if (fields := self._fields(row)) is None:
                            continue
                        if check is not None:
                            check(self._where(row), fields)
                        good += 1
                    except (DataError, RequestError) as error:
                        if first is None or isinstance(error, RequestError) > isinstance(first, RequestError):
                            first = error
                    self._offsets.append(row.offset)
                    self._numbers.append(row.number)
        except OSError as error:
            raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
        if not len(self):
            raise RequestError(f"{path}: holds no rows")
        if not good and first is not None:
            raise first

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._offsets)

    def rows(self, begin: int, end: int) -> Iterator[tuple[str, Cells] | BadRow]:
        """Yield the place (``table.csv:7``) and the fields of the rows from `begin` to before `end`."""
        if begin >= min(end, len(self)):
            return
        with self._open() as file:
            file.seek(self._offsets[begin])
            for row in self._read(file, self._offsets[begin], self._numbers[begin] - 1):
                where = self._where(row)
                found: tuple[str, Cells] | BadRow
                try:
                    if (fields := self._fields(row)) is None:
                        continue
                    found = (where, fields)
                except (DataError, RequestError) as error:
                    found = BadRow(where, str(error))
                yield found
                begin += 1
                if begin == end:
                    return

    def _read(self, file: IO[bytes], offset: int = 0, before: int = 0) -> Iterator[TableRow]:
        if self.kind == ".json":
            return read_list(file, str(self.path), offset=offset, number=before)
        columns = self.columns or None
        return read_table(file, self.kind, offset=offset, number=before, columns=columns, texts=self.texts)

    def _where(self, row: TableRow) -> str:
        return f"{self.path}:{row.number}"

    def _header(self, row: TableRow | None) -> tuple[str, ...]:
        if row is None:
            return ()
        if row.problem is not None:
            raise DataError(f"{self._where(row)}: {row.problem}")
        header: list[str] = row.values
        if any("\r" in name for name in header):
            raise DataError(f"{self.path}: its lines end in carriage returns; save it with line feeds")
        if repeated := {name for name in header if header.count(name) > 1}:
            raise DataError(f"{self.path}:1: column {listing(repeated)} is there twice")
        return tuple(header)

    def _fields(self, row: TableRow) -> Cells | None:
        """Return the fields of a row by column, or None where the row does not count."""
        where = self._where(row)
        if row.problem is not None:
            raise DataError(f"{where}: {row.problem}")
        fields = row.values
        if not self.is_json:
            if len(fields) != len(self.columns):
                whose = (
                    f"the header has {len(self.columns)}" if row.number > 1 else f"{len(self.columns)} belong"
                )
                raise DataError(f"{where}: {len(fields)} fields, but {whose}")
            fields = dict(zip(self.columns, fields, strict=True))
        if not isinstance(fields, dict):
            raise DataError(f"{where}: expected a mapping, not {type(fields).__name__}")
        if missing := [column for column in self.needs if column not in fields]:
            raise RequestError(f"{where}: no column '{missing[0]}': not {self.what}")
        return fields if self.keep is None or self.keep(fields) else None


class TableLayout(Layout):
    """A layout whose rows are those of a table: a subclass sets `table` and makes a row of the fields."""

    table: Table

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, begin: int, end: int) -> Iterator[Row | BadRow]:
        """Yield the rows from `begin` to before `end`, in the order of the table."""
        for found in self.table.rows(begin, end):
            if isinstance(found, BadRow):
                yield found
                continue
            where, fields = found
            try:
                row: Row | BadRow = self.row(where, fields)
            except (DataError, RequestError) as error:
                row = BadRow(where, str(error))
            yield row

    @abstractmethod
    def row(self, where: str, fields: Cells) -> Row:
        """Make a row of the fields that stand at a place (``table.csv:7``).

        Raises:
            DataError: The row is malformed; it is left out.
            RequestError: It lacks a column; where all rows do, the corpus cannot be opened.
        """
