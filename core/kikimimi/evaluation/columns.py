"""Columns of a table on disk: references, predictions, and what rows belong to."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from kikimimi.console.words import nearest
from kikimimi.data.table import TABLE_SUFFIXES, TableRow, read_table, table_kind
from kikimimi.errors import MissingExtraError, RequestError

PARQUET = ".parquet"
_AT_ONCE = 1024  # rows that are read together


def read_texts(
    path: Path,
    texts: Sequence[str],
    values: Sequence[str] = (),
    *,
    left_out: list[str] | None = None,
) -> dict[str, list[str]]:
    """Read columns of a UTF-8 table; every row counts, empty texts included.

    Args:
        path: ``.csv`` (quoted as RFC 4180 says), ``.tsv`` (no quoting, as text/tab-separated-values says: a
            quotation mark is a character like any other), ``.jsonl`` (one object per line; the first line of
            a run's predictions, which says what they depend on, is passed over) or ``.parquet``.
        texts: Columns that hold texts, such as what was said.
        values: Columns that hold texts or numbers, such as keys; numbers become texts, null an empty one.
        left_out: Takes what is wrong with each malformed row, which is then left out; None makes it an error.

    Returns:
        The columns by name, in the order of the rows.

    Raises:
        RequestError: The file is missing, empty, not UTF-8 or not such a table, lacks a column, or all rows
            are malformed.
    """
    suffixes = (*TABLE_SUFFIXES, PARQUET)
    kind = PARQUET if path.suffix.lower() == PARQUET else table_kind(path)
    if kind is None:
        raise RequestError(f"{path}: the name must end in {', '.join(suffixes)}, not '{path.suffix}'")
    if os.path.islink(path) and not os.path.exists(path):
        raise RequestError(f"{path}: is a symbolic link that leads nowhere, or to itself")
    if not os.path.exists(path):
        near = nearest(path.name, (p.name for p in path.parent.glob("*"))) if path.parent.is_dir() else ""
        raise RequestError(f"{path}: no such file.{near}")
    if path.is_fifo():  # without a writer, it would be waited for without end
        raise RequestError(f"{path}: is a pipe; save what comes out of it in a file")
    wanted = list(dict.fromkeys((*texts, *values)))
    found: dict[str, list[str]] = {name: [] for name in wanted}
    try:
        with path.open("rb") as file:
            read = _parquet_rows if kind == PARQUET else partial(_rows, kind=kind)
            for row in read(path, file=file, wanted=wanted, texts=texts, left_out=left_out):
                for name in wanted:
                    found[name].append(row[name])
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not found[wanted[0]]:
        raise RequestError(left_out[0] if left_out else f"{path}: holds no rows")
    return found


def _parquet_rows(
    path: Path, *, file: IO[bytes], wanted: Sequence[str], texts: Sequence[str], left_out: list[str] | None
) -> Iterator[dict[str, str]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(f"{path}: reading parquet", "pyarrow", "datasets") from error
    number = 0
    try:
        table = parquet.ParquetFile(file)
        _check_columns(str(path), table.schema_arrow.names, wanted)
        for batch in table.iter_batches(_AT_ONCE, columns=list(wanted)):
            for row in batch.to_pylist():
                number += 1
                try:
                    yield {name: _text(f"{path}, row {number}", row, name, texts) for name in wanted}
                except RequestError as error:
                    if left_out is None:
                        raise
                    left_out.append(str(error))
    except pyarrow.ArrowException as error:
        raise RequestError(f"{path}: no parquet file, or a damaged one: {error}") from error


def _rows(
    path: Path,
    *,
    kind: str,
    file: IO[bytes],
    wanted: Sequence[str],
    texts: Sequence[str],
    left_out: list[str] | None,
) -> Iterator[dict[str, str]]:
    rows = read_table(file, kind, texts=texts)
    header: list[str] | None = None
    if kind != ".jsonl":
        first = next(rows, None)
        header = [] if first is None else _values(f"{path}, line {first.number}", first)
        if any("\r" in name for name in header or ()):
            raise RequestError(f"{path}: its lines end in carriage returns; save it with line feeds")
        _check_columns(str(path), header, wanted)  # pyright: ignore[reportArgumentType]
    for number, row in enumerate(rows):
        if number == 0 and isinstance(row.values, dict) and row.values.keys() == {"identity"}:
            continue
        try:
            yield _row(f"{path}, line {row.number}", row, header, wanted, texts)
        except RequestError as error:
            if left_out is None:
                raise
            left_out.append(str(error))


def _row(
    where: str, row: TableRow, header: list[str] | None, wanted: Sequence[str], texts: Sequence[str]
) -> dict[str, str]:
    """Return the wanted texts of a row by column."""
    values = _values(where, row)
    if header is not None:
        if len(values) != len(header):
            raise RequestError(f"{where}: {len(values)} values, but the header names {len(header)} columns")
        values = dict(zip(header, values, strict=True))
    elif not isinstance(values, dict):
        raise RequestError(f"{where}: expected a JSON object, not {type(values).__name__}")
    else:
        _check_columns(where, values, wanted)
    return {column: _text(where, values, column, texts) for column in wanted}


def _values(where: str, row: TableRow) -> Any:
    if row.problem is not None:
        raise RequestError(f"{where}: {row.problem}")
    return row.values


def _check_columns(where: str, columns: Iterable[str], wanted: Sequence[str]) -> None:
    columns = list(columns)
    if not columns:
        raise RequestError(f"{where}: holds no rows")
    for name in wanted:
        if name not in columns:
            raise RequestError(
                f"{where}: no column is called '{name}'.{nearest(name, columns)} "
                f"Columns: {', '.join(columns)}"
            )
        if columns.count(name) > 1:
            raise RequestError(f"{where}: {columns.count(name)} columns are called '{name}'")


def _text(where: str, row: dict[str, Any], column: str, texts: Sequence[str]) -> str:
    value = row[column]
    if isinstance(value, str):
        return value
    if column not in texts and (value is None or isinstance(value, int | float)):
        return "" if value is None else str(value)
    kind = "a text" if column in texts else "a text or a number"
    raise RequestError(f"{where}: column '{column}' holds {json.dumps(value, default=str)}, not {kind}")
