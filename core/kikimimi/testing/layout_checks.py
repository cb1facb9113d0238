"""Checks of layouts: the rows of an example corpus, and what is said where there is none."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

from kikimimi.contracts.conversation import parse_conversation
from kikimimi.contracts.layout import BadRow, ExampleCorpus, Layout, LayoutConfig, Row, Segment
from kikimimi.data.packing.row import Dropped, PackSettings, pack_row
from kikimimi.errors import DataError, RequestError
from kikimimi.testing.records import any_tone
from kikimimi.testing.subject import (
    ContractError,
    PlainSubject,
    expect,
    expect_no_error,
    expect_raised,
    expect_type,
)

_SECONDS = 0.5
_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".mp3": "MP3", ".ogg": "OGG"}


class LayoutSubject(PlainSubject[Layout]):
    """A layout under test, and its example."""

    config_base = LayoutConfig

    @cached_property
    def example(self) -> ExampleCorpus:
        """The corpus that the layout gives.

        Raises:
            ContractError: It gives none.
        """
        try:
            found: Any = self.component.example()
        except NotImplementedError:
            raise ContractError(
                f"{self.component.__name__}.example: expected a kikimimi.ExampleCorpus to read, found none"
            ) from None
        expect_type(found, ExampleCorpus, "example: expected a kikimimi.ExampleCorpus")
        corpus: ExampleCorpus = found
        return corpus

    @contextmanager
    def corpus(self) -> Iterator[Path]:
        """Write the example into a folder, and give the path as users do."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.example.files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if content is None:
                    path.write_bytes(any_tone(_SECONDS, _FORMATS[path.suffix]))
                else:
                    path.write_bytes(content.encode() if isinstance(content, str) else content)
            yield Path(folder) / self.example.path

    def build(self) -> Layout:
        """Open the example."""
        with self.corpus() as path:
            return self.open(path)

    def open(self, path: Path) -> Layout:
        """Open a corpus."""
        config = self.example.config if self.example.config is not None else self.config
        found: Layout = self.component(str(path), config)
        return found


def the_example_is_recognised(subject: LayoutSubject) -> None:
    """`matches` is true of the example, and false of an empty folder, a text and a path that is not there."""
    with subject.corpus() as path, tempfile.TemporaryDirectory() as empty:
        found = subject.component.matches(path)
        expect(found is True, f"matches: expected true of its example, found {found!r}")
        text = Path(empty, "folder", "readme.txt")
        text.parent.mkdir()
        text.write_text("no corpus\n", encoding="utf-8")
        for what in (text.parent, text, Path(empty, "nothing")):
            with expect_no_error(f"matches of {what.name}: expected false"):
                found = subject.component.matches(what)
            expect(found is False, f"matches: expected false of a {what.name}, found {found!r}")


def rows_are_as_many_as_its_length(subject: LayoutSubject) -> None:
    """There are at least two rows, `len` of them, in the same order whichever are asked for, and however the
    disk lists its files.
    """
    with subject.corpus() as path:
        layout = subject.open(path)
        with expect_no_error("len: expected a whole number"):
            number = len(layout)
        found = [deepcopy(row) for row in layout.rows(0, number)]
        expect(len(found) >= 2, f"example: expected at least two rows, found {len(found)}")
        expect(
            len(found) == number,
            f"rows: expected as many as its length says, {number}, found {len(found)}",
        )
        for begin in range(number + 1):
            for end in range(begin, number + 1):
                some = [deepcopy(row) for row in layout.rows(begin, end)]
                expect(
                    some == found[begin:end],
                    f"rows({begin}, {end}): expected those of all rows, found others or another number",
                )
        again = list(subject.open(path).rows(0, number))
        expect(again == found, "rows of another process: expected the same, found others")
        with _listed_in_reverse():
            turned = list(subject.open(path).rows(0, number))
        expect(
            turned == found,
            "rows, where the disk lists its files in another order: expected the same, found others. Sort "
            "what is listed",
        )


@contextmanager
def _listed_in_reverse() -> Iterator[None]:
    listed, scanned = os.listdir, os.scandir

    class Scanned:
        """What `os.scandir` returns, from the end."""

        def __init__(self, *arguments: Any) -> None:
            with scanned(*arguments) as entries:
                self.entries = iter([*entries][::-1])

        def __iter__(self) -> Iterator[Any]:
            return self.entries

        def __next__(self) -> Any:
            return next(self.entries)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *error: object) -> None:
            self.close()

        def close(self) -> None:
            """Nothing is open any more."""

    def names(*arguments: Any) -> list[Any]:
        return listed(*arguments)[::-1]

    with patch.object(os, "listdir", names), patch.object(os, "scandir", Scanned):
        yield


def rows_are_records(subject: LayoutSubject) -> None:
    """Each row of the example is good: a name of its own, a record in JSON, clips that are there, and nothing
    that packing leaves out. The corpus is left as it is.
    """
    with subject.corpus() as path:
        folder = path if path.is_dir() else path.parent
        before = set(folder.rglob("*"))
        rows = list((layout := subject.open(path)).rows(0, len(layout)))
        names = []
        for number, row in enumerate(rows):
            if isinstance(row, BadRow):
                raise ContractError(f"example: expected good rows, found {row.name}: {row.reason}")
            expect_type(row, Row, "rows: expected kikimimi.Row")
            expect_type(row.name, str, "name of a row: expected a text")
            expect_type(row.clips, tuple, f"row {row.name!r}: expected a tuple of clips")
            names.append(row.name)
            _expect_record(row)
            with expect_no_error(f"row {row.name!r}: expected a record that can be packed"):
                packed = pack_row(row, number, PackSettings())
            if isinstance(packed, Dropped):
                raise ContractError(
                    f"row {row.name!r}: expected a record that can be packed, found it left out "
                    f"({packed.reason}): {packed.detail}"
                )
        expect(len(set(names)) == len(names), f"names: expected one for each row, found {names}")
        written = sorted(str(new.relative_to(folder)) for new in set(folder.rglob("*")) - before)
        expect(not written, f"expected the corpus left as it is, found new files: {', '.join(written)}")


def _expect_record(row: Row) -> None:
    where = f"row {row.name!r}"
    try:
        json.dumps(row.record, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContractError(f"{where}: expected a record that JSON can hold, found: {error}") from error
    record = row.record
    if "messages" in record:
        clips = [str(number) for number in range(len(row.clips))]
        with expect_no_error(f"{where}: expected a conversation whose audio parts are {clips}"):
            talk = parse_conversation(record)
        expect(
            sorted(set(talk.clips())) == sorted(clips),
            f"{where}: expected every one of its {len(clips)} clips in the turns, found {talk.clips()}",
        )
    else:
        said = isinstance(record.get("text"), str) and bool(record["text"].strip())
        expect(
            said or bool(record.get("meta")),
            f"{where}: expected messages, or the text of a clip, or labels in meta, found {sorted(record)}",
        )
        expect(
            len(row.clips) == 1, f"{where}: expected the one clip that the text is of, found {len(row.clips)}"
        )
    for number, clip in enumerate(row.clips):
        source = clip.source if isinstance(clip, Segment) else clip
        expect_type(source, (Path, bytes), f"{where}, clip {number}: expected a path, bytes or a Segment")  # type: ignore[arg-type]
        expect(
            bool(source) if isinstance(source, bytes) else source.is_file(),
            f"{where}, clip {number}: expected an audio file of the example, found none at {source!r:.80}",
        )


def fingerprint_follows_the_data(subject: LayoutSubject) -> None:
    """The hash of rows stays while nothing changes, differs between rows, and changes with a clip."""
    with subject.corpus() as path:
        layout = subject.open(path)
        number = len(layout)
        first = layout.fingerprint(0, number)
        expect(layout.fingerprint(0, number) == first, "fingerprint: expected the same again, found another")
        expect(
            layout.fingerprint(0, 1) != layout.fingerprint(1, 2),
            "fingerprint: expected others of other rows, found the same",
        )
        for row in layout.rows(0, 1):
            for clip in row.clips if isinstance(row, Row) else ():
                source = clip.source if isinstance(clip, Segment) else clip
                if isinstance(source, Path):
                    source.write_bytes(any_tone(2 * _SECONDS, _FORMATS[source.suffix]))
                    expect(
                        subject.open(path).fingerprint(0, number) != first,
                        "fingerprint: expected another once a clip is another, found the same",
                    )


def what_is_not_there_is_said(subject: LayoutSubject) -> None:
    """A path where nothing is, or an empty folder, is a RequestError that names it."""
    with tempfile.TemporaryDirectory() as folder:
        for path in (Path(folder, "nothing"), Path(folder)):
            what = "an empty folder" if path.is_dir() else "a path where nothing is"
            try:
                with expect_raised(RequestError, what):
                    subject.open(path)
            except RequestError as error:
                expect(path.name in str(error), f"expected an error that names {path}, found: {error}")


def damaged_files_are_said(subject: LayoutSubject) -> None:
    """A file of the corpus that is no text any more, or is empty, is a `BadRow`, a DataError or a
    RequestError; never another error.
    """
    texts = [name for name, content in subject.example.files.items() if isinstance(content, str)]
    for name in texts:
        for what, content in {"not in UTF-8": b"\xff\xfe\x80\n\x00\n", "empty": b""}.items():
            with subject.corpus() as path:
                folder = path if path.is_dir() else path.parent
                for damaged in folder.rglob(Path(name).name):
                    damaged.write_bytes(content)
                allowed = (RequestError, DataError)
                with (
                    suppress(*allowed),
                    expect_no_error(
                        f"{name}, {what}: expected bad rows, a kikimimi.DataError or RequestError", *allowed
                    ),
                ):
                    layout = subject.open(path)
                    list(layout.rows(0, len(layout)))
