"""Manifests: tables of audio files and their transcripts (CSV, TSV or JSON Lines)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kikimimi.errors import DataError, RequestError, listing, nearest

_NEEDED = ("path", "text")
_READERS = (".csv", ".jsonl", ".tsv")


@dataclass(frozen=True)
class ManifestRow:
    """One line of a manifest.

    Attributes:
        number: Its place, from 0.
        path: Of the audio file, as it stands there.
        text: The transcript; may be empty.
        language: ISO 639-1 code, or None.
        meta: All other columns.
    """

    number: int
    path: str
    text: str
    language: str | None
    meta: dict[str, Any]


def read_manifest(manifest: Path) -> list[ManifestRow]:
    """Read a manifest.

    Args:
        manifest: ``.csv`` or ``.tsv`` with a header line, or ``.jsonl``; columns path (relative to the
            manifest, or absolute), text, language (may be left out) and any others. UTF-8.

    Raises:
        RequestError: It does not exist, is of no known kind, holds no row, or lacks a column.
        DataError: A line is malformed.
    """
    if not manifest.is_file():
        raise RequestError(f"{manifest}: no such manifest")
    if manifest.suffix not in _READERS:
        raise RequestError(f"{manifest}: a manifest is one of {listing(_READERS)}, not '{manifest.suffix}'")
    try:
        lines = list(_json_lines(manifest) if manifest.suffix == ".jsonl" else _table(manifest))
    except UnicodeDecodeError as error:
        raise DataError(f"{manifest}: not UTF-8: {error}") from error
    if not lines:
        raise RequestError(f"{manifest}: holds no rows")
    return [_row(number, f"{manifest}:{line}", fields) for number, (line, fields) in enumerate(lines)]


def _table(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # utf-8-sig: spreadsheets put a byte order mark in front.
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        tabs = manifest.suffix == ".tsv"
        # Tab-separated files have no quoting: a quotation mark there is a letter.
        reader = (
            csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if tabs
            else csv.reader(file, strict=True)
        )
        try:
            header = next(reader, [])
            if repeated := {name for name in header if header.count(name) > 1}:
                raise DataError(f"{manifest}:1: column {listing(repeated)} is there twice")
            for fields in reader:
                where = f"{manifest}:{reader.line_num}"
                if not fields:  # a blank line
                    continue
                if len(fields) != len(header):
                    raise DataError(f"{where}: {len(fields)} fields, but the header has {len(header)}")
                yield reader.line_num, dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise DataError(f"{manifest}:{reader.line_num}: {error}") from error


def _json_lines(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with manifest.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{manifest}:{number}: not JSON: {error}") from error
            if not isinstance(fields, dict):
                raise DataError(f"{manifest}:{number}: expected a mapping, not {type(fields).__name__}")
            yield number, fields


def _row(number: int, where: str, fields: dict[str, Any]) -> ManifestRow:
    for name in _NEEDED:
        if name not in fields:
            raise RequestError(
                f"{where}: no column '{name}'.{nearest(name, fields)} Columns: {listing(map(str, fields))}"
            )
    path, text, language = fields.pop("path"), fields.pop("text"), fields.pop("language", None)
    if not isinstance(path, str) or not path:
        raise DataError(f"{where}: path: expected the name of an audio file, not {path!r}")
    for name, value in (("text", text), ("language", language)):
        if not (value is None or isinstance(value, str)):
            raise DataError(f"{where}: {name}: expected a text, not {value!r}")
    return ManifestRow(number, path, text or "", language or None, fields)
