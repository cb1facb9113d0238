"""References and predictions from a table on disk."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from kikimimi.console.words import nearest
from kikimimi.errors import RequestError

SUFFIXES = (".csv", ".tsv", ".jsonl")


def read_pairs(path: Path, reference: str, prediction: str) -> tuple[list[str], list[str]]:
    """Read two columns of a UTF-8 table; every row counts, empty texts included.

    Args:
        path: ``.csv`` (quoted as RFC 4180 says), ``.tsv`` (no quoting, as text/tab-separated-values says: a
            quotation mark is a character like any other) or ``.jsonl`` (one object per line).
        reference: The column that holds what was said.
        prediction: The column that holds what a system wrote.

    Returns:
        The references and the predictions, in the order of the rows.

    Raises:
        RequestError: The file is missing, empty, not UTF-8 or not such a table, or lacks a column.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise RequestError(f"{path}: the name must end in {', '.join(SUFFIXES)}, not '{path.suffix}'")
    if reference == prediction:
        raise RequestError(f"reference and prediction are both column '{reference}': name two columns")
    if not path.exists():
        near = nearest(path.name, (p.name for p in path.parent.glob("*"))) if path.parent.is_dir() else ""
        raise RequestError(f"{path}: no such file.{near}")
    references: list[str] = []
    predictions: list[str] = []
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            for where, row in _rows(path, file, (reference, prediction)):
                references.append(_text(where, row, reference))
                predictions.append(_text(where, row, prediction))
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path}: not UTF-8 (byte {error.start} of a block is 0x{error.object[error.start]:02x}). "
            "Save the table as UTF-8."
        ) from error
    if not references:
        raise RequestError(f"{path}: holds no rows")
    return references, predictions


def _rows(path: Path, file: TextIO, wanted: tuple[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix.lower() == ".jsonl":
        return _objects(path, file, wanted)
    return _records(path, file, wanted)


def _records(path: Path, file: TextIO, wanted: tuple[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix.lower() == ".csv":
        reader = csv.reader(file, strict=True)
    else:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        header = next(reader, [])
        _check_columns(str(path), header, wanted)
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise RequestError(f"{where}: {len(row)} values, but the header names {len(header)} columns")
            yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise RequestError(f"{path}, line {reader.line_num}: {error}") from error


def _objects(path: Path, file: TextIO, wanted: tuple[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RequestError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
        if not isinstance(row, dict):
            raise RequestError(f"{where}: expected a JSON object, not {type(row).__name__}")
        _check_columns(where, row, wanted)
        yield where, row


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
