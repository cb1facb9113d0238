"""JSON files that hold many records: a list, or a record in each line (JSON Lines); gzip or not."""

import codecs
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kikimimi import DataError, TableRow
from kikimimi_layouts.conversations import holds_conversation
from kikimimi_layouts.gzip_file import GzipFile

MAX_ITEM = 1 << 24
"""Longest item of a list [characters]."""

_SUFFIXES = (".json", ".jsonl")
_OF_NEMO = {"audio_filepath", "audio_filename"}
_OF_LHOTSE = (  # cuts; recordings and supervisions, whose layout says what to do with them
    {"id", "start", "duration", "recording"},
    {"id", "sources", "sampling_rate", "num_samples"},
    {"id", "recording_id", "start", "duration"},
)
_CHUNK = 1 << 20
_FIRST = 1 << 22  # how much is looked at for the first record [bytes]
_SPACE = re.compile(r"[ \t\r\n]*")


def json_kind(path: Path) -> str | None:
    """Return how a JSON file holds its records, ``.json`` (a list) or ``.jsonl``; None for any other file.

    A name in ``.json`` tells nothing: the first character does. ``.gz`` may follow.
    """
    name = Path(path.name.lower().removesuffix(".gz"))
    if name.suffix not in _SUFFIXES or not os.path.isfile(path):
        return None
    is_list = name.suffix == ".json" and _beginning(path, 64).lstrip().startswith("[")
    return ".json" if is_list else ".jsonl"


def opener(path: Path) -> Any:
    """Return what opens a file, packed or not, as often as it is called, for reading from any place."""
    return GzipFile(path).open if path.name.lower().endswith(".gz") else lambda: path.open("rb")


def first_record(path: Path) -> dict[str, Any] | None:
    """Return the first record of a JSON file by a cheap look, or None where it is not to be told."""
    kind = json_kind(path)
    if kind is None:
        return None
    text = _beginning(path, _FIRST).lstrip()
    text = text[1:].lstrip() if kind == ".json" else text
    try:
        record, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def record_layout(path: Path) -> str | None:
    """Return the layout that reads a JSON file, by its first record; None where it holds no records.

    ``lhotse`` reads cuts, ``nemo`` labelled clips with ``audio_filepath``, and ``manifest`` all else.
    """
    record = first_record(path)
    if record is None:
        return "manifest" if path.suffix.lower() == ".jsonl" else None
    if any(record.keys() >= names for names in _OF_LHOTSE) or str(record.get("type")).endswith("Cut"):
        return "lhotse"
    return "nemo" if _OF_NEMO & record.keys() and not holds_conversation(record) else "manifest"


def read_list(file: IO[bytes], name: str, *, offset: int = 0, number: int = 0) -> Iterator[TableRow]:
    """Read the items of a JSON list one by one, in the memory of one.

    Args:
        file: The UTF-8 file: at its beginning, or at an item.
        name: What messages call it.
        offset: Where in the file that is [bytes].
        number: How many items stand before it.

    Raises:
        DataError: It is no list, breaks off, or is malformed: what follows cannot be told.
    """
    text = _Text(file, name, offset)
    if offset == 0:
        text.skip()
        if not text.take("["):
            raise DataError(f"{name}: expected a list in brackets, [{{...}}, {{...}}]")
    text.skip()
    if offset == 0 and text.take("]"):
        text.end()
        return
    while True:
        text.skip()
        begin = text.offset
        value = text.value(number + 1)
        number += 1
        yield TableRow(begin, number, value)
        text.skip()
        if text.take("]"):
            text.end()
            return
        if not text.take(","):
            raise DataError(f"{name}: item {number}: expected a comma or the end of the list after it")


class _Text:
    """The text of a file from where it is read on; `offset` [bytes] moves with it."""

    def __init__(self, file: IO[bytes], name: str, offset: int) -> None:
        self._file, self._name, self.offset = file, name, offset
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._over = "", 0, False
        if offset == 0:
            self._more()
            if self._text.startswith("\ufeff"):
                self._go(1)

    def skip(self) -> None:
        """Pass over white space."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._go(found.end() if found else self._at)
            if self._at < len(self._text) or not self._more():
                return

    def take(self, character: str) -> bool:
        """Pass over a character, and tell whether it is there."""
        if there := self._text.startswith(character, self._at):
            self._go(self._at + 1)
        return there

    def value(self, number: int) -> Any:
        """Read the value that begins here."""
        value, problem = None, None
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._at)
            except RecursionError:
                raise DataError(f"{self._name}: item {number}: nested too deeply") from None
            except ValueError as error:
                problem, end = error, None
            if end is not None and (end < len(self._text) or not self._more()):
                self._go(end)
                return value
            if len(self._text) - self._at > MAX_ITEM:
                raise DataError(f"{self._name}: item {number}: longer than {MAX_ITEM:,} characters")
            if end is None and not self._more():
                said = "breaks off" if not self._text[self._at :].strip() else f"not JSON: {problem}"
                raise DataError(
                    f"{self._name}: item {number}: {said}. As JSON Lines, one malformed line stops no other"
                )

    def end(self) -> None:
        """Check that nothing follows."""
        self.skip()
        if self._at < len(self._text):
            raise DataError(f"{self._name}: more follows after the end of the list")

    def _go(self, to: int) -> None:
        self.offset += len(self._text[self._at : to].encode("utf-8", "surrogatepass"))
        self._at = to

    def _more(self) -> bool:
        if self._over:
            return False
        data = self._file.read(_CHUNK)
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise DataError(f"{self._name}: not UTF-8: {error}") from error
        self._over = not data
        self._text, self._at = self._text[self._at :] + text, 0
        return not self._over


def _beginning(path: Path, size: int) -> str:
    try:
        with opener(path)() as file:
            data = file.read(size)
    except (DataError, OSError):  # reading all of it says what is wrong
        return ""
    text: str = data.decode("utf-8-sig", errors="replace")
    return text
