"""References and predictions from a table on disk."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from kikimimi.console.words import nearest
from kikimimi.data.table import TABLE_SUFFIXES, TableRow, read_table, table_kind
from kikimimi.errors import RequestError


def read_pairs(
    path: Path, reference: str, prediction: str, *, left_out: list[str] | None = None
) -> tuple[list[str], list[str]]:
    """Read two columns of a UTF-8 table; every row counts, empty texts included.

    Args:
        path: ``.csv`` (quoted as RFC 4180 says), ``.tsv`` (no quoting, as text/tab-separated-values says: a
            quotation mark is a character like any other) or ``.jsonl`` (one object per line).
        reference: The column that holds what was said.
        prediction: The column that holds what a system wrote.
        left_out: Takes what is wrong with each malformed row, which is then left out; None makes it an error.

    Returns:
        The references and the predictions, in the order of the rows.

    Raises:
        RequestError: The file is missing, empty, not UTF-8 or not such a table, lacks a column, or all rows
            are malformed.
    """
    kind = table_kind(path)
    if kind is None:
        raise RequestError(f"{path}: the name must end in {', '.join(TABLE_SUFFIXES)}, not '{path.suffix}'")
    if reference == prediction:
        raise RequestError(f"reference and prediction are both column '{reference}': name two columns")
    if os.path.islink(path) and not os.path.exists(path):
        raise RequestError(f"{path}: is a symbolic link that leads nowhere, or to itself")
    if not os.path.exists(path):
        near = nearest(path.name, (p.name for p in path.parent.glob("*"))) if path.parent.is_dir() else ""
        raise RequestError(f"{path}: no such file.{near}")
    if path.is_fifo():  # without a writer, it would be waited for without end
        raise RequestError(f"{path}: is a pipe; save what comes out of it in a file")
    references: list[str] = []
    predictions: list[str] = []
    try:
        with path.open("rb") as file:
            for row in _rows(path, kind, file, (reference, prediction), left_out):
                references.append(row[reference])
                predictions.append(row[prediction])
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    if not references:
        raise RequestError(left_out[0] if left_out else f"{path}: holds no rows")
    return references, predictions


def _rows(
    path: Path, kind: str, file: IO[bytes], wanted: tuple[str, str], left_out: list[str] | None
) -> Iterator[dict[str, str]]:
    rows = read_table(file, kind, texts=wanted)
    header: list[str] | None = None
    if kind != ".jsonl":
        first = next(rows, None)
        header = [] if first is None else _values(f"{path}, line {first.number}", first)
        if any("\r" in name for name in header or ()):
            raise RequestError(f"{path}: its lines end in carriage returns; save it with line feeds")
        _check_columns(str(path), header, wanted)  # pyright: ignore[reportArgumentType]
    for row in rows:
        try:
            yield _row(f"{path}, line {row.number}", row, header, wanted)
        except RequestError as error:
            if left_out is None:
                raise
            left_out.append(str(error))


def _row(where: str, row: TableRow, header: list[str] | None, wanted: tuple[str, str]) -> dict[str, str]:
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
    return {column: _text(where, values, column) for column in wanted}


def _values(where: str, row: TableRow) -> Any:
    if row.problem is not None:
        raise RequestError(f"{where}: {row.problem}")
    return row.values


def _check_columns(where: str, columns: Iterable[str], wanted: tuple[str, str]) -> None:
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


def _text(where: str, row: dict[str, Any], column: str) -> str:
    value = row[column]
    if not isinstance(value, str):
        raise RequestError(f"{where}: column '{column}' holds {json.dumps(value)}, not a text")
    return value
